"""torch's own profiler, and its int8 product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["int8_product"]


def int8_product(side: int, threads: int) -> Callable[[], Any] | None:
    """A call that multiplies two (side, side) int8 matrices, or None without torch."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    matrix = torch.randint(-127, 127, (side, side), dtype=torch.int8)
    other = matrix.t().contiguous().t()
    try:
        torch._int_mm(matrix, other)
    except (RuntimeError, AttributeError):  # no such kernel on this CPU
        return None
    return lambda: torch._int_mm(matrix, other)
