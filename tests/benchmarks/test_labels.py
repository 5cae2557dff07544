from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from sam_edge.benchmarks.labels import LINE, Place, apart, beside

WIDTH = 340.0


@given(st.lists(st.floats(26, 214), max_size=9))
def test_names_at_the_ends_of_lines_do_not_overlap(heights: list[float]) -> None:
    placed = sorted(apart(heights, 214.0))
    assert all(low + LINE <= high + 1e-6 for low, high in pairwise(placed))
    assert all(height <= 214.0 for height in placed)
    assert len(placed) == len(heights)


def test_a_name_beside_a_point_covers_no_other_point_and_no_other_name() -> None:
    points = [(60.0, 100.0), (75.0, 101.0), (80.0, 102.0), (300.0, 100.0)]
    names = beside(points, ["onnx fp32", "openvino fp32", "tflite fp32", "torch fp32"], WIDTH)
    marks = [Place(x - 7, x + 7, y) for x, y in points]
    assert not any(one.overlaps(other) for one, other in combinations(names, 2))
    assert not any(name.overlaps(mark) for name in names for mark in marks)
    assert all(name.left > 0 and name.right < WIDTH for name in names)
    assert names[3].anchor == "end"  # on the right there is no room


def test_a_name_too_long_for_the_chart_stands_at_its_point_all_the_same() -> None:
    (name,) = beside([(100.0, 50.0)], ["x" * 80], WIDTH)
    assert (name.x, name.y, name.anchor) == (110.0, 50.0, "start")
