"""`python -m sam_edge.benchmarks`: what one model costs on this machine, as one JSON record a configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any

import click

from sam_edge.benchmarks.machine import describe_machine
from sam_edge.errors import SamEdgeError, require

SCHEMA = "sam-edge/bench-stages/1"
PROTOCOL_VERSION = 1
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
COLD_STARTS = 5


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
    photo = str(resources.files("sam_edge.assets") / "photos" / "astronaut.jpg")  # 512 x 512 px
    arguments = {"model": model, "runtime": runtime, "threads": threads, "photo_path": photo, "everything": everything}
    options = f"--model {model} --runtime {runtime} --threads {threads} --rounds {rounds}"
    runs = [_run_stages(arguments, threads) for _ in range(rounds)]
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "protocol_version": PROTOCOL_VERSION,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m sam_edge.benchmarks {options}",
        "commit": _commit(),
        "model": model,
        "runtime": runtime,
        "threads": threads,
        "rounds": rounds,
        **_summary(runs),
        "segment_cold_start": _cold_start(model, runtime, threads, photo),
        "machine": describe_machine(),
    }
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
    try:
        print(require("sam_edge.benchmarks.kernels", extra="gpu").measure(results, minutes, pages))
    except SamEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def _run_stages(arguments: dict[str, Any], threads: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "sam_edge.benchmarks.stages", json.dumps(arguments)],
        env=os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return dict(json.loads(done.stdout))


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """p50, p90, p99 and min over all iterations, and each round's median."""
    stages = {}
    for name in runs[0]["samples"]:
        every = sorted(x for run in runs for x in run["samples"][name])
        stages[name.removesuffix("_ms")] = {
            "p50_ms": _percentile(every, 0.5),
            "p90_ms": _percentile(every, 0.9),
            "p99_ms": _percentile(every, 0.99),
            "min_ms": every[0],
            "iterations": len(every),
            "round_p50_ms": [median(run["samples"][name]) for run in runs],
        }
    whole: dict[str, Any] = {
        name: [run[name] for run in runs] for name in ("load_ms", "first_ms", "everything_ms") if name in runs[0]
    }
    peaks = {
        f"peak_resident_{when}_bytes": max(run[f"memory_{when}"].get("peak_resident_bytes", 0) for run in runs)
        for when in ("before_load", "after_clicks", "after_everything")
        if f"memory_{when}" in runs[0]
    }
    extra = {"everything_masks": runs[0]["everything_masks"]} if "everything_masks" in runs[0] else {}
    return {"photo": runs[0]["photo"], "stages": stages, **whole, **extra, **peaks}


def _cold_start(model: str, runtime: str, threads: int, photo: str) -> dict[str, Any]:
    """The whole command, from process start to written file: wall seconds and the largest resident set."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sam_edge", "segment", photo, "--point", "220,320", "--model", model]
        command += ["--runtime", runtime, "--threads", str(threads), "-o", str(Path(folder) / "out.png")]
        for _ in range(COLD_STARTS):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
        peak = _peak_of(command)
    return {"wall_ms": [1e3 * s for s in seconds], "p50_ms": 1e3 * median(seconds), "peak_resident_bytes": peak}


def _peak_of(command: list[str]) -> int:
    """Largest resident set of one run of `command`: asked of a process that has no other child."""
    script = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", script, *command], check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


def _percentile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    )
    return done.stdout.strip()


if __name__ == "__main__":
    main()
