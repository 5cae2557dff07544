"""What one model costs on this machine in one record: the stages of a click, everything mode, and a cold start."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from sam_edge.benchmarks.harness import Settings
from sam_edge.benchmarks.machine import describe_machine
from sam_edge.benchmarks.process import Limits, run_job
from sam_edge.benchmarks.timing import summarise
from sam_edge.errors import DataError
from sam_edge.evaluate.protocol import PROTOCOL_VERSION
from sam_edge.evaluate.provenance import source_commit

__all__ = ["SCHEMA", "measure_overview"]

SCHEMA = "sam-edge/bench-overview/1"
COLD_STARTS = 5


def measure_overview(model: str, runtime: str, threads: int, rounds: int, with_everything: bool) -> dict[str, Any]:
    """The record of `rounds` fresh processes for each task. Raises DataError where one could not be measured."""
    settings = Settings()
    shared = asdict(settings) | {"path": model, "runtime": runtime, "size_px": 0, "threads": threads}
    single = [_measured(shared | {"task": "single"}) for _ in range(rounds)]
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "protocol_version": PROTOCOL_VERSION,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "model": model,
        "runtime": runtime,
        "threads": threads,
        "rounds": rounds,
        "photo": single[0]["photo"],
        "stages": {stage: summarise([run["samples_ms"][stage] for run in single]) for stage in single[0]["samples_ms"]},
        "load_ms": [run["load_ms"] for run in single],
        "first_ms": [run["first_ms"] for run in single],
        "peak_resident_after_clicks_bytes": _peak(single),
    }
    if with_everything:
        whole = [_measured(shared | {"task": "everything"}) for _ in range(rounds)]
        record |= {
            "everything_ms": [run["samples_ms"]["everything"][0] for run in whole],
            "everything_masks": whole[0]["masks"],
            "peak_resident_after_everything_bytes": _peak(whole),
        }
    return record | {
        "segment_cold_start": _cold_start(model, runtime, threads, settings.photo),
        "machine": describe_machine(),
    }


def _measured(job: dict[str, Any]) -> dict[str, Any]:
    outcome = run_job(job, Limits())
    if outcome.status != "measured":
        raise DataError(f"{job['path']} on {job['runtime']}: {outcome.status}: {outcome.reason}")
    return outcome.result


def _peak(runs: list[dict[str, Any]]) -> int:
    return max(int(run["memory_after"].get("peak_resident_bytes", 0)) for run in runs)


def _cold_start(model: str, runtime: str, threads: int, photo: str) -> dict[str, Any]:
    """The whole command, from process start to written file: wall milliseconds and the largest resident set."""
    walls_ms = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sam_edge", "segment", photo, "--point", "220,320", "--model", model]
        command += ["--runtime", runtime, "--threads", str(threads), "-o", str(Path(folder) / "out.png")]
        for _ in range(COLD_STARTS):
            start = perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            walls_ms.append(1e3 * (perf_counter() - start))
        peak = _peak_of(command)
    return {"wall_ms": walls_ms, "p50_ms": median(walls_ms), "peak_resident_bytes": peak}


def _peak_of(command: list[str]) -> int:
    """Largest resident set of one run of `command`: asked of a process that has no other child."""
    script = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", script, *command], check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
