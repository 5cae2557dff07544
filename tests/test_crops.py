"""Grids and crops against the original's values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_edge.crops import crop_boxes, point_grid, point_grids
from tests.golden_data import golden

UTILS = golden("utils")


@pytest.mark.parametrize("case", range(5))
def test_grids_are_the_golden_ones(case: int) -> None:
    points_per_side, n_layers, downscale_factor = UTILS["grids/params"][case].tolist()
    grids = point_grids(points_per_side, n_layers, downscale_factor)
    assert [len(grid) for grid in grids] == UTILS[f"grids/lengths_{case}"].tolist()
    np.testing.assert_array_equal(np.concatenate(grids), UTILS[f"grids/points_{case}"])


@pytest.mark.parametrize("case", range(6))
def test_crops_are_the_golden_ones(case: int) -> None:
    height, width, n_layers, overlap_ratio = UTILS["crops/params"][case].tolist()
    boxes, layers = crop_boxes((int(height), int(width)), int(n_layers), overlap_ratio)
    np.testing.assert_array_equal(boxes, UTILS[f"crops/boxes_{case}"])
    np.testing.assert_array_equal(layers, UTILS[f"crops/layers_{case}"])


def test_a_grid_of_one_point_is_the_middle() -> None:
    np.testing.assert_array_equal(point_grid(1), [[0.5, 0.5]])


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 3), st.floats(0, 0.9))
def test_every_layer_covers_the_photo(height: int, width: int, n_layers: int, overlap_ratio: float) -> None:
    boxes, layers = crop_boxes((height, width), n_layers, overlap_ratio)
    for layer in range(n_layers + 1):
        covered = np.zeros((height, width), np.bool_)
        for x0, y0, x1, y1 in boxes[layers == layer]:
            assert x0 >= 0 and x1 <= width and y0 >= 0 and y1 <= height
            covered[y0:y1, x0:x1] = True
        assert covered.all()
