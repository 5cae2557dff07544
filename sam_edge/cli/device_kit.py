"""`sam-edge device-kit`: what a phone or a board needs to be measured."""

from __future__ import annotations

import click

EXAMPLES = """\b
Example:
  sam-edge device-kit out/nano-512-tflite-int8 -o kit.zip"""


@click.command("device-kit", epilog=EXAMPLES, short_help="Pack an artifact for measuring on a device.")
@click.argument("directory", metavar="DIR")
@click.option("-o", "--output", required=True, metavar="FILE", help="The zip.")
@click.option("--threads", default=4, show_default=True, type=click.IntRange(1, 1024), help="In the kit's commands.")
def command(directory: str, output: str, threads: int) -> None:
    """Pack the artifact in DIR with inputs, expected outputs, and the commands of the runtimes' own tools.

    Unpack it beside the device, follow its README.md, and read the results with `sam-edge report kit -o report`.
    """
    from sam_edge.benchmarks.device_kit import write_kit

    click.echo(f"wrote {write_kit(directory, output, threads)}")
