"""Inputs for kernels, and how far results may be from the float32 reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["DEVICE", "ROUNDING", "assert_near", "float32_in_full", "inside_nan", "relative_error"]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# The largest relative error of rounding once to a dtype. float32 stands for sums of a few hundred terms in another
# order: the bound of 1e-5, of which the kernels use a tenth.
ROUNDING = {torch.float32: 1e-5 / 4, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@contextmanager
def float32_in_full() -> Iterator[None]:
    """On a GPU torch shortens float32 to tf32 in convolutions by default, and in products where that was asked for."""
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, allowed in zip(switches, before, strict=True):
        switch.allow_tf32 = allowed


def relative_error(got: Tensor, want: Tensor) -> float:
    """The largest difference, as a share of the largest value; NaN where anything is NaN."""
    assert got.shape == want.shape, f"shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    return float((got.double() - want.double()).abs().max() / want.double().abs().max())


def assert_near(got: Tensor, want: Tensor, roundings: float, dtype: torch.dtype, scale: Tensor | None = None) -> None:
    """got within `roundings` roundings of `dtype` of want, as a share of the largest value of `scale`, or of want."""
    scale = want if scale is None else scale
    error = float((got.double() - want.double()).abs().max() / scale.double().abs().max())
    allowed = roundings * ROUNDING[dtype]
    assert error <= allowed, f"differs by {error:.1e} of the largest value, allowed {allowed:.1e}"  # NaN fails too


def inside_nan(x: Tensor, axes: Sequence[int] = (0, 1, 2, 3)) -> Tensor:
    """The same values as a part of a larger tensor whose other elements are NaN: not contiguous, and unforgiving."""
    size = [length + 2 * (axis in axes) for axis, length in enumerate(x.shape)]
    around = torch.full(size, float("nan"), dtype=x.dtype, device=x.device)
    inside = around[tuple(slice(1, 1 + n) if axis in axes else slice(None) for axis, n in enumerate(x.shape))]
    inside.copy_(x)
    return inside
