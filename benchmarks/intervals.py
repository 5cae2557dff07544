"""Of one value a round: what lies in the middle, and how sure that is (bootstrap, SciPy)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_edge.errors import require

__all__ = ["MIN_ROUNDS", "Interval", "median_interval", "middle_interval", "ratio_interval"]

MIN_ROUNDS = 3  # fewer say nothing of their spread
RESAMPLES = 2000
TRIMMED_SHARE = 0.2  # at either end: robust, and of ten rounds nearly as sharp as the mean, which the median is not

Interval = tuple[float, float]


def ratio_interval(new: Sequence[float], old: Sequence[float]) -> tuple[float, float, float]:
    """The ratio of the middles, and its 95 % interval, the rounds of both drawn independently.

    Raises RuntimeUnavailable without SciPy.
    """

    def ratio(a: NDArray[np.float64], b: NDArray[np.float64], axis: int = -1) -> Any:
        return _middle(a, axis) / _middle(b, axis)

    return float(ratio(np.asarray(new), np.asarray(old))), *_bootstrap((new, old), ratio)


def middle_interval(values: Sequence[float]) -> Interval:
    """95 % interval of the middle: the mean without the smallest and the largest fifth."""
    return _bootstrap((values,), _middle)


def median_interval(values: Sequence[float]) -> Interval:
    """95 % interval of the median."""
    return _bootstrap((values,), lambda x, axis=-1: np.median(x, axis=axis))


def _middle(values: NDArray[np.float64], axis: int = -1) -> Any:
    return require("scipy.stats", extra="bench").trim_mean(values, TRIMMED_SHARE, axis=axis)


def _bootstrap(samples: tuple[Sequence[float], ...], statistic: Callable[..., Any]) -> Interval:
    found = require("scipy.stats", extra="bench").bootstrap(
        tuple(np.asarray(sample, np.float64) for sample in samples),
        statistic,
        n_resamples=RESAMPLES,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
