"""`sam-edge verify`: is an artifact still the model it says it is, on this machine?"""

from __future__ import annotations

import json

import click

EXAMPLES = """\b
Example:
  sam-edge verify out/nano-512-tflite-int8"""
EXIT_FAILED = 1


@click.command("verify", epilog=EXAMPLES, short_help="Check exported artifacts again, here.")
@click.argument("directories", nargs=-1, required=True, metavar="DIR...")
@click.option(
    "--threads", type=click.IntRange(0, 1024), default=0, show_default=True, help="CPU threads; 0: the runtime chooses."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of lines.")
def command(directories: tuple[str, ...], threads: int, as_json: bool) -> int:
    """Check artifact folders from their own manifest and golden photos: hashes, structure, embeddings and masks.

    Needs the runtime of each folder's target, never torch (Core ML away from macOS: see the message).
    """
    from sam_edge.verify import verify

    results = []
    for directory in directories:
        results.append(verify(directory, threads))
        if as_json:
            continue
        found = results[-1]
        state = "passed" if found.passed else "FAILED"
        figures = ", ".join(f"{name} {value:.4g}" for name, value in found.figures.items())
        click.echo(f"{state}  {found.directory} ({found.target} {found.precision}, on {found.runtime}): {figures}")
        for name, why in found.checks.items():
            if why:
                click.echo(f"  {name}: {why}")
    if as_json:
        click.echo(json.dumps([found.to_dict() for found in results], allow_nan=False))
    return 0 if all(found.passed for found in results) else EXIT_FAILED
