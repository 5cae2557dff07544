"""Repeating a stage and summing up its samples. What is added to a stage is two clock reads and an append."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

__all__ = ["repeat", "repeat_beside", "summarise"]

QUANTILES = 51  # points of a stored distribution: the smallest, every second percent, the largest
SHOWN_DIGITS = 4  # of milliseconds: a tenth of a microsecond
BLOCKS = 5  # of a stage's iterations, with the yardstick before each
YARDSTICKS = 2  # before a block


def repeat(
    stage: Callable[[int], object], min_iterations: int, min_seconds: float, done_before: int = 0
) -> list[float]:
    """Milliseconds of each call of `stage(i)`: at least so many and for so long, after a `stage(0)` not counted.

    `i` counts on from `done_before`.
    """
    stage(0)
    samples: list[float] = []
    begin = perf_counter()
    while len(samples) < min_iterations or perf_counter() - begin < min_seconds:
        i = done_before + len(samples) + 1
        start = perf_counter()
        stage(i)
        samples.append(1e3 * (perf_counter() - start))
    return samples


def repeat_beside(
    stage: Callable[[int], object], yardstick: Callable[[int], object], min_iterations: int, min_seconds: float
) -> tuple[list[float], list[float]]:
    """`repeat` in blocks, with some of the yardstick before each: what slows the machine down slows down both.

    Each block begins with a `stage(0)` that is not counted, for what the yardstick pushed out of the caches.
    Returns the milliseconds of the stage and of the yardstick.
    """
    samples: list[float] = []
    beside: list[float] = []
    for _ in range(BLOCKS):
        beside += repeat(yardstick, YARDSTICKS, 0.0)
        samples += repeat(stage, -(-min_iterations // BLOCKS), min_seconds / BLOCKS, len(samples))
    return samples, beside


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
