"""Running one job in a process of its own, under limits of time and memory; a crash is an answer, too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from sam_edge.benchmarks.worker import EXIT_REFUSED
from sam_edge.errors import require

__all__ = ["THREAD_VARIABLES", "Limits", "Outcome", "run_job"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
WATCH_SECONDS = 0.1
STDERR_TAIL = 4000  # characters


@dataclass(frozen=True)
class Limits:
    """Of one process. 0: none."""

    seconds: float = 600.0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Outcome:
    """`result` where status is "measured"; else `reason`, and what the process wrote to standard error."""

    status: str
    seconds: float
    result: dict[str, Any]
    reason: str = ""
    stderr: str = ""


def run_job(job: dict[str, Any], limits: Limits) -> Outcome:
    """Run a job of `worker.TASKS`. Ctrl-C and errors here end the process, too."""
    psutil = require("psutil", extra="bench")
    start = monotonic()
    with tempfile.TemporaryDirectory(prefix="sam_edge_bench_") as scratch:
        folder = Path(scratch)
        out, said = folder / "result.json", folder / "stderr.txt"
        (folder / "job.json").write_text(json.dumps(job | {"out": str(out), "scratch": str(folder)}), encoding="utf-8")
        with said.open("wb") as stderr, (folder / "stdout.txt").open("wb") as stdout:
            process = subprocess.Popen(
                [sys.executable, "-m", "sam_edge.benchmarks.worker", str(folder / "job.json")],
                env=_environment(job["threads"]),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
            try:
                over = _watch(process, psutil.Process(process.pid), limits, psutil.Error)
            finally:  # Ctrl-C too: nothing of ours keeps running
                if process.poll() is None:
                    process.kill()
                process.wait()
        seconds = monotonic() - start
        stderr_tail = said.read_text(encoding="utf-8", errors="replace")[-STDERR_TAIL:]
        if over:
            return Outcome(over[0], seconds, {}, over[1], stderr_tail)
        return _outcome(process.returncode, out, seconds, stderr_tail)


def _outcome(code: int, out: Path, seconds: float, stderr: str) -> Outcome:
    try:
        result = json.loads(out.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "nothing on standard error")
        return Outcome("crashed", seconds, {}, f"the process ended with {how}: {last.strip()[:300]}", stderr)
    if code == EXIT_REFUSED:
        status = "not available" if result["kind"] == "RuntimeUnavailable" else "failed"
        return Outcome(status, seconds, {}, result["refused"], stderr)
    if code != 0:  # after the result was written: a library's own clean-up
        return Outcome("crashed", seconds, {}, f"the process ended with status {code} after its work", stderr)
    return Outcome("measured", seconds, result)


def _watch(
    process: subprocess.Popen[bytes], seen: Any, limits: Limits, gone: type[Exception]
) -> tuple[str, str] | None:
    """Wait for the end; (status, reason) if a limit ended it. A look takes 20 microseconds, ten times a second."""
    deadline = monotonic() + limits.seconds if limits.seconds else float("inf")
    while process.poll() is None:
        if monotonic() > deadline:
            return "over its time limit", f"it was ended after {limits.seconds:.0f} s, the limit of one process"
        if limits.memory_bytes:
            try:
                resident = seen.memory_info().rss
            except gone:
                resident = 0
            if resident > limits.memory_bytes:
                limit = limits.memory_bytes / 2**20
                return "over its memory limit", f"it was ended at {resident / 2**20:.0f} MiB, the limit is {limit:.0f}"
        sleep(WATCH_SECONDS)
    return None


def _environment(threads: int) -> dict[str, str]:
    return os.environ | (dict.fromkeys(THREAD_VARIABLES, str(threads)) if threads else {})
