"""The search on a model whose answer is known: each unit in int8 costs a kind a known share of its score."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sam_edge.quantize.search import Measured, groups_of, search

UNITS = [f"image_encoder.trunk.blocks.{i}.{part}" for i in range(8) for part in ("expand", "project")]


def costs_to_measure(costs: dict[str, float], calls: list[frozenset[str]]):  # type: ignore[no-untyped-def]
    def measure(float_units: frozenset[str]) -> Measured:
        calls.append(float_units)
        score = 1 - sum(cost for unit, cost in costs.items() if unit not in float_units)
        return Measured({"box": score, "click": score}, {"box": score, "click": score})

    return measure


def test_units_are_grouped_by_block() -> None:
    groups = groups_of(UNITS)
    assert next(iter(groups)) == "image_encoder.trunk.blocks.0" and all(len(units) == 2 for units in groups.values())


def test_only_the_units_that_break_masks_stay_float() -> None:
    calls: list[frozenset[str]] = []
    costs = {UNITS[4]: 0.03, UNITS[11]: 0.02, UNITS[0]: 0.001}
    found = search(groups_of(UNITS), costs_to_measure(costs, calls), goal=0.99)
    assert found.reached
    assert set(found.float_units) == {UNITS[4], UNITS[5], UNITS[10], UNITS[11]}
    assert found.gains["image_encoder.trunk.blocks.2"] > found.gains["image_encoder.trunk.blocks.0"] > 0
    assert found.steps[-1]["float"] and found.why()["reached"] is True


def test_nothing_is_searched_where_everything_may_be_quantized() -> None:
    calls: list[frozenset[str]] = []
    found = search(groups_of(UNITS), costs_to_measure({}, calls), goal=0.99)
    assert (found.float_units, found.reached, calls) == ((), True, [frozenset()])


def test_a_goal_out_of_reach_is_said() -> None:
    costs = dict.fromkeys(UNITS, 0.05)
    found = search(groups_of(UNITS), costs_to_measure(costs, []), goal=0.99, most_groups=3)
    assert not found.reached and len(found.float_units) == 6


def test_a_group_that_later_ones_make_needless_is_taken_out_again() -> None:
    """Block 0 looks best alone, but blocks 1 and 2 together reach the goal without it."""

    def measure(float_units: frozenset[str]) -> Measured:
        blocks = {unit.split(".")[3] for unit in float_units}
        closeness = 0.5 + 0.3 * ("0" in blocks) + 0.2 * ("1" in blocks) + 0.1 * ("2" in blocks)
        score = 1.0 if {"1", "2"} <= blocks else 0.9
        return Measured({"box": score}, {"box": closeness})

    found = search(groups_of(UNITS), measure, goal=0.99)
    assert found.reached and {unit.split(".")[3] for unit in found.float_units} == {"1", "2"}


@given(st.dictionaries(st.sampled_from(UNITS), st.floats(0, 0.05), max_size=6), st.integers(1, 8))
def test_the_number_of_measurements_is_bounded(costs: dict[str, float], most_groups: int) -> None:
    calls: list[frozenset[str]] = []
    groups = groups_of(UNITS)
    seen: list[tuple[int, int]] = []
    found = search(
        groups, costs_to_measure(costs, calls), 0.99, most_groups=most_groups, on_measured=lambda *n: seen.append(n)
    )
    assert len(calls) <= 1 + len(groups) + 2 * most_groups
    assert [done for done, _ in seen] == list(range(1, len(calls) + 1))
    kept = frozenset(found.float_units)
    assert costs_to_measure(costs, [])(kept).reached(0.99) == found.reached
