"""What this machine can do at most, by a large copy and a matrix product: a stage is stated as a share of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np

__all__ = ["measure_ceilings"]

COPY_BYTES = 128 << 20  # past every cache
SIDE = 1536
REPEATS = 7


def measure_ceilings(threads: int) -> dict[str, Any]:
    """The best of seven. Copies count bytes read and written; products two operations a multiply-add.

    float32 is NumPy's BLAS; int8 is torch's product with 32-bit sums, absent where torch is.
    """
    workers = threads or os.cpu_count() or 1
    found: dict[str, Any] = {"threads": workers, "copy_gb_per_s": _copy_gb_per_s(workers)}
    matrix = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
    operations = 2 * SIDE**3
    found["matmul_float32_gflop_per_s"] = operations / _best_seconds(lambda: matrix @ matrix) / 1e9
    seconds = _int8_seconds(workers)
    if seconds is not None:
        found["matmul_int8_gop_per_s"] = operations / seconds / 1e9
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in found.items()}


def _copy_gb_per_s(workers: int) -> float:
    source, target = np.ones(COPY_BYTES, np.uint8), np.zeros(COPY_BYTES, np.uint8)
    edges = np.linspace(0, COPY_BYTES, workers + 1).astype(int)
    parts = [slice(int(a), int(b)) for a, b in pairwise(edges)]
    with ThreadPoolExecutor(workers) as pool:
        return (
            2
            * COPY_BYTES
            / _best_seconds(lambda: list(pool.map(lambda part: np.copyto(target[part], source[part]), parts)))
            / 1e9
        )


def _int8_seconds(workers: int) -> float | None:
    from sam_edge.benchmarks.profile_torch import int8_product

    product = int8_product(SIDE, workers)
    return None if product is None else _best_seconds(product)


def _best_seconds(call: Callable[[], object]) -> float:
    call()
    best = float("inf")
    for _ in range(REPEATS):
        start = perf_counter()
        call()
        best = min(best, perf_counter() - start)
    return best
