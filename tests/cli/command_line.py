"""Running the real command in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["assert_one_line_error", "run", "start"]

TIMEOUT_S = 600  # an export takes 15 s on a quiet machine


def start(
    *arguments: str | Path, cwd: Path, before: Callable[[], None] | None = None, **streams: Any
) -> subprocess.Popen[str]:
    """Start `sam-edge ARGUMENTS` in `cwd`; `before` runs in the new process, for limits."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
        if before is not None:
            before()

    return subprocess.Popen(
        [sys.executable, "-m", "sam_edge", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"},
        text=True,
        preexec_fn=prepare,
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams),
    )


def run(
    *arguments: str | Path, cwd: Path, before: Callable[[], None] | None = None, **streams: Any
) -> subprocess.CompletedProcess[str]:
    """Run `sam-edge ARGUMENTS` to its end."""
    with start(*arguments, cwd=cwd, before=before, **streams) as process:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def assert_one_line_error(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit status 1, one line on standard error with all `parts` in it, nothing on standard output."""
    assert done.returncode == 1, done
    assert not done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("sam-edge: error: ")
    for part in parts:
        assert part in lines[0], f"{part!r} is missing in: {lines[0]}"
