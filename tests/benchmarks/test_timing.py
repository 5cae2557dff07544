from __future__ import annotations

from statistics import median
from time import perf_counter

import pytest

from sam_edge.benchmarks.timing import BLOCKS, QUANTILES, YARDSTICKS, repeat, repeat_beside, summarise

STAGE_MS = 10.0


def test_the_harness_adds_less_than_one_percent_to_a_stage_of_known_cost() -> None:
    """The stage says itself how long it took, so that a busy machine, which delays both, changes nothing."""
    own: list[float] = []

    def ten_milliseconds(_: int) -> None:
        start = perf_counter()
        while perf_counter() - start < STAGE_MS / 1e3:
            pass
        own.append(1e3 * (perf_counter() - start))

    samples = repeat(ten_milliseconds, 40, 0.0)
    added = [sample - cost for sample, cost in zip(samples, own[1:], strict=True)]
    assert min(samples) >= STAGE_MS
    assert 0 <= median(added) < 0.01 * STAGE_MS


def test_a_stage_is_repeated_often_enough_and_long_enough() -> None:
    calls: list[int] = []
    assert len(repeat(calls.append, 5, 0.0)) == 5
    assert calls == [0, 1, 2, 3, 4, 5]  # the first is the warm-up
    start = perf_counter()
    repeat(calls.append, 1, 0.05)
    assert perf_counter() - start >= 0.05


def test_the_yardstick_runs_before_each_block_of_a_stage_whose_iterations_count_on() -> None:
    calls: list[str] = []
    samples, beside = repeat_beside(lambda i: calls.append(f"s{i}"), lambda _: calls.append("y"), 10, 0.0)
    assert (len(samples), len(beside)) == (10, BLOCKS * YARDSTICKS)
    yardsticks = ["y"] * (YARDSTICKS + 1)  # the first is the warm-up
    assert calls[: 2 * len(yardsticks) + 6] == [*yardsticks, "s0", "s1", "s2", *yardsticks, "s0", "s3", "s4"]
    assert calls[-1] == "s10"


def test_a_summary_has_percentiles_of_all_iterations_and_the_median_of_each_round() -> None:
    found = summarise([[1.0, 2.0, 3.0], [10.0, 20.0]])
    assert (found["p50_ms"], found["min_ms"], found["iterations"]) == (3.0, 1.0, 5)
    assert found["round_p50_ms"] == [2.0, 15.0]
    assert found["p90_ms"] == pytest.approx(16.0) and found["p99_ms"] == pytest.approx(19.6)
    assert len(found["quantiles_ms"]) == QUANTILES
    assert (found["quantiles_ms"][0], found["quantiles_ms"][-1]) == (1.0, 20.0)
