"""Run lengths: golden values, COCO's strings, windows, and damaged annotations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from sam_edge.errors import DataError
from sam_edge.rle import Rle, coco_to_mask, coco_to_rle, mask_to_rle, rle_area, rle_to_coco, rle_to_mask
from tests.golden_data import golden

UTILS = golden("utils")
MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))


def golden_runs() -> list[list[int]]:
    ends = UTILS["masks/rle_lengths"].cumsum()[:-1]
    return [counts.tolist() for counts in np.split(UTILS["masks/rle_counts"], ends)]


def test_run_lengths_areas_and_coco_strings_are_the_golden_ones() -> None:
    masks = UTILS["masks/input"]
    for mask, counts, area, string in zip(
        masks, golden_runs(), UTILS["masks/areas"], UTILS["masks/coco_counts"], strict=True
    ):
        rle = mask_to_rle(mask)
        assert rle == {"size": [23, 31], "counts": counts}
        assert rle_area(rle) == area
        assert rle_to_coco(rle) == {"size": [23, 31], "counts": string}
        np.testing.assert_array_equal(rle_to_mask(rle), mask)
        np.testing.assert_array_equal(coco_to_mask({"size": [23, 31], "counts": str(string)}), mask)


def test_windows_are_placed_as_the_golden_uncropped_masks() -> None:
    x0, y0, x1, y1 = UTILS["uncrop/mask_crop_box"].tolist()
    height, width = UTILS["uncrop/size"].tolist()
    for mask, expected in zip(UTILS["masks/input"], UTILS["uncrop/masks"], strict=True):
        assert mask.shape == (y1 - y0, x1 - x0)
        np.testing.assert_array_equal(rle_to_mask(mask_to_rle(mask, (height, width), (y0, x0))), expected)


@given(MASKS)
def test_masks_survive_run_lengths_and_coco_strings(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
    rle = mask_to_rle(mask)
    assert sum(rle["counts"]) == mask.size and all(count > 0 for count in rle["counts"][1:])
    assert rle_area(rle) == mask.sum()
    np.testing.assert_array_equal(rle_to_mask(rle), mask)
    compressed = rle_to_coco(rle)
    assert coco_to_rle(compressed) == rle
    np.testing.assert_array_equal(coco.decode(compressed), mask)
    assert compressed["counts"] == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


@given(MASKS, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_a_window_has_the_runs_of_the_picture_around_it(
    mask: np.ndarray[Any, np.dtype[np.bool_]], top: int, bottom: int, left: int, right: int
) -> None:
    picture = np.pad(mask, ((top, bottom), (left, right)))
    assert mask_to_rle(mask, picture.shape, (top, left)) == mask_to_rle(picture)


def test_an_empty_window_is_an_empty_mask() -> None:
    assert mask_to_rle(np.zeros((0, 0), np.bool_), (4, 5)) == {"size": [4, 5], "counts": [20]}


def test_long_counts_of_a_large_picture_survive_a_coco_string() -> None:
    rle: Rle = {"size": [12_000, 9_000], "counts": [50_000_000, 7, 3, 57_999_990]}
    assert coco_to_rle(rle_to_coco(rle)) == rle


@pytest.mark.parametrize("counts", [[3, 2], [3, 4], [7, -1], [], [2**62, 2**62, 2**62, 2**62, 6]])
def test_counts_that_do_not_fill_the_picture_are_refused(counts: Any) -> None:
    with pytest.raises(DataError, match="expected 2 x 3 = 6"):
        rle_to_mask({"size": [2, 3], "counts": counts})


@pytest.mark.parametrize(
    "counts", [[[1, 2], [1, 2]], [[1], [2, 3]], [5.5, 0.5], ["6"], [True] * 6, [2**63], [2**70], None]
)
def test_counts_that_are_no_whole_numbers_are_refused(counts: Any) -> None:
    with pytest.raises(DataError, match="expected a list of whole numbers"):
        rle_to_mask({"size": [2, 3], "counts": counts})


@pytest.mark.parametrize("string", ["6o", "6\u00e9", "6\ud800", "6~", "PPPPPPPPPPPP1"])
def test_a_string_that_does_not_end_or_holds_other_characters_is_refused(string: str) -> None:
    with pytest.raises(DataError, match="The file is damaged"):
        coco_to_mask({"size": [2, 3], "counts": string})


@given(st.text(st.characters(max_codepoint=300), max_size=30))
def test_any_string_is_a_mask_or_a_data_error(string: str) -> None:
    try:
        assert coco_to_mask({"size": [3, 4], "counts": string}).shape == (3, 4)
    except DataError as error:
        assert "\n" not in str(error)
