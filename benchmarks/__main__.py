"""`python -m sam_edge.benchmarks`: what one model costs on this machine, as one JSON record a configuration."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from sam_edge.benchmarks.overview import measure_overview
from sam_edge.benchmarks.peers import main as peers
from sam_edge.errors import SamEdgeError, require


@click.group(
    invoke_without_command=True,
    epilog="Example: python -m sam_edge.benchmarks --model nano --threads 2 -o benchmarks/results/nano.jsonl",
)
@click.option("--model", default="nano", show_default=True)
@click.option("--runtime", default="onnx", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=5, show_default=True, help="Fresh processes; a round's figure is its median.")
@click.option(
    "--everything/--no-everything", default=True, show_default=True, help="Also everything mode, 32 x 32 points."
)
@click.option("-o", "out", type=click.Path(path_type=Path), help="Append the record to this file.")
def main(model: str, runtime: str, threads: int, rounds: int, everything: bool, out: Path | None) -> None:
    """Measure load, first result, encode, click, end to end, everything mode, memory and the command's cold start."""
    if click.get_current_context().invoked_subcommand is not None:
        return
    options = f"--model {model} --runtime {runtime} --threads {threads} --rounds {rounds}"
    record = measure_overview(model, runtime, threads, rounds, everything)
    record["command"] = f"python -m sam_edge.benchmarks {options}"
    print(json.dumps(record, indent=2))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


@main.command(epilog="Example: python -m sam_edge.benchmarks kernels --minutes 9")
@click.option("--results", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--minutes", default=9.0, show_default=True, help="Start nothing new after this time.")
@click.option(
    "--page",
    "pages",
    multiple=True,
    type=click.Path(path_type=Path),
    default=(Path("docs/kernels.md"), Path("README.md")),
    show_default=True,
)
def kernels(results: Path, minutes: float, pages: tuple[Path, ...]) -> None:
    """Measure the GPU kernels beside every baseline; writes kernels-GPU.jsonl and the table in the pages."""
    print(require("sam_edge.benchmarks.kernels", extra="gpu").measure(results, minutes, pages))


main.add_command(peers, "peers")


if __name__ == "__main__":
    try:
        main(prog_name="python -m sam_edge.benchmarks")
    except SamEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
