"""Rounding to half precision as NumPy's own conversion does it."""

from __future__ import annotations

import numpy as np
import pytest

from sam_edge.contract import Float32
from sam_edge.runtimes.mil_half import BLOCK, rounded_to_half

HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
FINITE = np.unique(HALVES[np.isfinite(HALVES)])
HALF_WAY = ((FINITE[1:].astype(np.float64) + FINITE[:-1]) / 2).astype(np.float32)
ANY_BITS = np.random.default_rng(0).integers(0, 1 << 32, 300_000, dtype=np.uint32).view(np.float32)
EDGES = np.array([65519.996, 65520, -65520, 3e38, np.inf, -np.inf, np.nan, 2.0**-25, 1.5 * 2.0**-25, 0], np.float32)


@pytest.mark.parametrize(
    "values",
    [
        HALVES,
        HALF_WAY,
        np.nextafter(HALF_WAY, np.float32(9e9)),
        np.nextafter(HALF_WAY, np.float32(-9e9)),
        ANY_BITS,
        EDGES,
    ],
    ids=["halves", "half way", "above half way", "below half way", "any bits", "edges"],
)
def test_every_value_is_rounded_as_numpy_rounds_it(values: Float32) -> None:
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(rounded_to_half(values), values.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("shape", [(), (0,), (3, 1), (2, BLOCK + 1)])
def test_the_shape_stays_and_the_argument_too(shape: tuple[int, ...]) -> None:
    values = np.full(shape, 1 + 2.0**-12, np.float32)
    rounded = rounded_to_half(values)
    assert rounded.shape == shape and (rounded == 1).all() and (values > 1).all()
