"""Boxes of masks, crop edges and suppression against the original's values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sam_edge.boxes import box_xyxy_to_xywh, is_near_crop_edge, mask_to_box, non_maximum_suppression
from tests.golden_data import golden

UTILS = golden("utils")


def test_boxes_of_masks_are_the_golden_ones_for_any_leading_shape() -> None:
    masks = UTILS["masks/input"]
    np.testing.assert_array_equal(mask_to_box(masks), UTILS["masks/boxes"])
    np.testing.assert_array_equal(mask_to_box(masks.reshape(2, 3, 23, 31)), UTILS["masks/boxes_2x3"])
    np.testing.assert_array_equal(mask_to_box(masks[0]), UTILS["masks/box_single"])
    np.testing.assert_array_equal(box_xyxy_to_xywh(UTILS["masks/boxes"]), UTILS["masks/boxes_xywh"])


def test_an_empty_mask_and_an_empty_window_have_a_zero_box() -> None:
    for shape in ((5, 7), (0, 7), (0, 0)):
        np.testing.assert_array_equal(mask_to_box(np.zeros(shape, np.bool_)), [0, 0, 0, 0])


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20)))
def test_a_box_touches_the_mask_on_all_sides(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
    x0, y0, x1, y1 = mask_to_box(mask)
    assert mask[y0 : y1 + 1, x0 : x1 + 1].sum() == mask.sum()
    if mask.any():
        assert mask[y0].any() and mask[y1].any() and mask[:, x0].any() and mask[:, x1].any()


def test_boxes_near_a_crops_edge_are_the_golden_ones() -> None:
    boxes, image = UTILS["edge/boxes"], UTILS["edge/orig_box"]
    np.testing.assert_array_equal(is_near_crop_edge(boxes, UTILS["edge/crop_box"], image), UTILS["edge/near"])
    np.testing.assert_array_equal(is_near_crop_edge(boxes, image, image), UTILS["edge/near_full"])


@pytest.mark.parametrize("case", range(3))
def test_suppression_keeps_the_golden_boxes_in_their_order(case: int) -> None:
    kept = non_maximum_suppression(UTILS["nms/boxes"], UTILS["nms/scores"], float(UTILS["nms/thresholds"][case]))
    np.testing.assert_array_equal(kept, UTILS[f"nms/keep_{case}"])


def test_suppression_keeps_a_box_exactly_at_the_threshold_and_the_first_of_equal_scores() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10]]  # IoU 0.5 between the first two
    assert non_maximum_suppression(boxes, [1.0, 1.0, 1.0], 0.5).tolist() == [0, 1]
    assert non_maximum_suppression(boxes, [1.0, 1.0, 1.0], 0.49).tolist() == [0]


def test_suppression_of_nothing_and_of_boxes_without_area_works() -> None:
    assert non_maximum_suppression(np.zeros((0, 4)), [], 0.5).tolist() == []
    assert non_maximum_suppression(np.zeros((3, 4)), [1, 2, 3], 0.5).tolist() == [2, 1, 0]


@given(st.integers(0, 40), st.floats(0.05, 0.95), st.integers(0, 1000))
def test_what_suppression_keeps_overlaps_little_and_what_it_drops_overlaps_something_better(
    count: int, threshold: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    corners = random.integers(0, 20, (count, 2))
    boxes = np.concatenate([corners, corners + random.integers(1, 20, (count, 2))], axis=1)
    scores = random.integers(0, 5, count)
    kept = non_maximum_suppression(boxes, scores, threshold)
    for index in range(count):
        better = [k for k in kept if k != index and scores[k] >= scores[index]]
        better = [k for k in better if iou(boxes[k], boxes[index]) > threshold]
        assert bool(better) != (index in kept)


def iou(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """In float32, as boxes are compared: 1/20 is above 0.05 there."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    overlap = np.prod(np.maximum(sides, 0))
    union = np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]) - overlap
    return float(np.float32(overlap) / np.float32(union))
