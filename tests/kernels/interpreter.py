"""Triton's interpreter, which runs kernels on the CPU: imported before anything that imports Triton.

Triton reads its switch whenever a kernel is defined: for its own ones when it is imported, for ours later.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
import torch

__all__ = ["INTERPRETED", "SWITCH"]

INTERPRETED = find_spec("triton") is not None and not torch.cuda.is_available()
SWITCH = "TRITON_INTERPRET"

if INTERPRETED:
    if "triton" in sys.modules:
        raise RuntimeError("a test module that was read earlier imported triton, which then cannot be interpreted.")
    with pytest.MonkeyPatch.context() as switch:
        switch.setenv(SWITCH, "1")
        import triton  # noqa: F401
