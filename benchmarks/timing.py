"""Repeating a stage and summing up its samples. What is added to a stage is two clock reads and an append."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

__all__ = ["repeat", "summarise"]

QUANTILES = 51  # points of a stored distribution: the smallest, every second percent, the largest
SHOWN_DIGITS = 4  # of milliseconds: a tenth of a microsecond


def repeat(stage: Callable[[int], object], min_iterations: int, min_seconds: float) -> list[float]:
    """Milliseconds of each call of `stage(i)`: at least so many and for so long, after one that is not counted."""
    stage(0)
    samples: list[float] = []
    begin = perf_counter()
    while len(samples) < min_iterations or perf_counter() - begin < min_seconds:
        i = len(samples) + 1
        start = perf_counter()
        stage(i)
        samples.append(1e3 * (perf_counter() - start))
    return samples


def summarise(rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """A stage's figures over all iterations of all rounds, its distribution, and each round's median.

    rounds: milliseconds, one list a round.
    """
    every = np.concatenate([np.asarray(samples, np.float64) for samples in rounds])
    p50, p90, p99 = np.percentile(every, [50, 90, 99])
    return {
        "p50_ms": _rounded(p50),
        "p90_ms": _rounded(p90),
        "p99_ms": _rounded(p99),
        "min_ms": _rounded(every.min()),
        "iterations": int(every.size),
        "round_p50_ms": [_rounded(median(samples)) for samples in rounds],
        "quantiles_ms": [_rounded(x) for x in np.percentile(every, np.linspace(0, 100, QUANTILES))],
    }


def _rounded(value: Any) -> float:
    return round(float(value), SHOWN_DIGITS)
