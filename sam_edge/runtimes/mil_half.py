"""Rounding to half precision, with the result kept in float32. NumPy's own conversion takes twice as long."""

from __future__ import annotations

import numpy as np

from sam_edge.contract import Float32

__all__ = ["rounded_to_half"]

BLOCK = 1 << 15  # values: what is computed of them stays in the processor's cache
DROPPED_BITS = 13  # of float32's 23, of which float16 keeps 10
KEPT = 0xFFFFFFFF << DROPPED_BITS & 0xFFFFFFFF
SMALLEST_NORMAL = np.float32(2.0**-14)  # below it, values lie 2**-24 apart
SUBNORMAL_GRID = np.float32(0.75)  # float32's neighbours lie 2**-24 apart here, so that adding it rounds to that grid
LARGEST = 65504.0


def rounded_to_half(values: Float32) -> Float32:
    """The nearest float16, ties to even, infinity beyond the largest: `astype(float16)`, but a zero has no sign."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    out = np.empty_like(flat)
    for start in range(0, flat.size, BLOCK):
        part = slice(start, start + BLOCK)
        _round(flat[part], out[part])
    return out.reshape(np.shape(values))


def _round(values: Float32, out: Float32) -> None:
    bits, rounded = values.view(np.uint32), out.view(np.uint32)
    np.right_shift(bits, DROPPED_BITS, out=rounded)
    rounded &= 1  # whether the last kept bit is odd: then the half-way point rounds up
    rounded += (1 << (DROPPED_BITS - 1)) - 1
    rounded += bits
    rounded &= KEPT
    magnitude = np.abs(values)
    subnormal = values + SUBNORMAL_GRID
    subnormal -= SUBNORMAL_GRID
    np.copyto(out, subnormal, where=magnitude < SMALLEST_NORMAL)
    if not magnitude.max() <= LARGEST:  # also where one is no number; few tensors have such values
        odd = ~(magnitude <= LARGEST)
        out[odd] = values[odd].astype(np.float16)
