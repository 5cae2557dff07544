"""Faults in measured processes: a sitecustomize.py that acts where ONNX Runtime is imported on three threads."""

from __future__ import annotations

from pathlib import Path

import pytest

__all__ = ["FAULTY_THREADS", "plant"]

FAULTY_THREADS = 3
SITE = """
import os, sys
class Fault:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime" and os.environ.get("OMP_NUM_THREADS") == "{threads}":
            {action}
sys.meta_path.insert(0, Fault())
"""
ACTIONS = {
    "crash": "sys.stderr.write('the runtime says why\\n'); sys.stderr.flush(); os.abort()",
    "missing": "raise ImportError('No module named onnxruntime')",
}


def plant(fault: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process started from now on has it."""
    folder.mkdir()
    text = SITE.format(threads=FAULTY_THREADS, action=ACTIONS[fault])
    (folder / "sitecustomize.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))
