"""Upscaling, stability and small regions against the original's values."""

from __future__ import annotations

import numpy as np
import pytest

from sam_edge.contract import Prediction
from sam_edge.masks import remove_small_regions, select_masks, stability_score, upscale_logits, upscale_masks
from tests.golden_data import golden

UTILS = golden("utils")


@pytest.mark.parametrize("case", range(4))
def test_upscaling_gives_the_golden_logits_and_masks(case: int) -> None:
    low_res = UTILS["post/low_res"]
    (h, w), (height, width) = UTILS[f"post/sizes_{case}"].tolist()
    stride = int(UTILS[f"post/stride_{case}"])
    logits = upscale_logits(low_res, 256, (h, w), (height, width))
    assert logits.shape == (3, 1, height, width) and logits.dtype == np.float32
    np.testing.assert_allclose(logits[..., ::stride, ::stride], UTILS[f"post/logits_{case}"], rtol=0, atol=3e-4)
    golden_masks = np.unpackbits(UTILS[f"post/mask_{case}"], axis=-1)[..., :width].astype(bool)
    masks = upscale_masks(low_res, 256, (h, w), (height, width))
    assert masks.dtype == np.bool_
    assert ((masks != golden_masks).sum((2, 3)) <= 10).all()
    np.testing.assert_array_equal(masks, logits > 0)


def test_one_step_instead_of_two_would_not_pass() -> None:
    """The golden values can tell: this is the fault they are there for."""
    import cv2

    low_res = UTILS["post/low_res"][0, 0]
    one_step = cv2.resize(low_res[:48], (64, 48), interpolation=cv2.INTER_LINEAR)
    assert np.abs(one_step - UTILS["post/logits_0"][0, 0]).max() > 0.01


def test_upscaling_a_photo_of_one_row_works() -> None:
    assert upscale_masks(np.ones((1, 3, 64, 64), np.float32), 256, (1, 256), (1, 4000)).all()


def test_multimask_takes_the_alternatives_and_the_single_mask_is_the_first() -> None:
    prediction = Prediction(
        np.arange(2 * 4 * 4, dtype=np.float32).reshape(2, 4, 2, 2), np.arange(8, dtype=np.float32).reshape(2, 4)
    )
    low_res, iou = select_masks(prediction, multimask=True)
    assert low_res.shape == (2, 3, 2, 2) and iou.tolist() == [[1, 2, 3], [5, 6, 7]]
    low_res, iou = select_masks(prediction, multimask=False)
    assert low_res.shape == (2, 1, 2, 2) and iou.tolist() == [[0], [4]]


@pytest.mark.parametrize("case", range(3))
def test_stability_scores_are_the_golden_ones_nan_included(case: int) -> None:
    threshold, offset = UTILS["stability/params"][case].tolist()
    score = stability_score(UTILS["stability/logits"], threshold, offset)
    np.testing.assert_array_equal(score, UTILS[f"stability/score_{case}"])
    assert np.isnan(score).any()


def test_stability_keeps_leading_shapes() -> None:
    assert stability_score(np.ones((2, 3, 4, 5), np.float32), 0, 0.5).tolist() == [[1, 1, 1], [1, 1, 1]]
    assert stability_score(np.ones((4, 5), np.float32), 0, 2).item() == 0


@pytest.mark.parametrize("case", range(8))
def test_small_regions_go_as_in_the_golden_masks(case: int) -> None:
    area, mode = UTILS["regions/areas"][case], str(UTILS["regions/modes"][case])
    for index, mask in enumerate(UTILS["regions/input"]):
        got, changed = remove_small_regions(mask, area, "holes" if mode == "holes" else "islands")
        np.testing.assert_array_equal(got, UTILS["regions/masks"][case, index])
        assert changed == UTILS["regions/changed"][case, index]
        assert got.dtype == np.bool_


def test_pixels_that_touch_at_corners_are_one_region() -> None:
    diagonal = np.eye(9, dtype=np.bool_)
    diagonal[0, 8] = True
    kept, changed = remove_small_regions(diagonal, 9, "islands")
    assert changed and kept.sum() == 9 and not kept[0, 8]


def test_the_mask_that_is_cleaned_is_not_written_to() -> None:
    mask = np.ones((9, 9), np.bool_)
    mask[4, 4] = False
    filled, changed = remove_small_regions(mask, 2, "holes")
    assert changed and filled.all() and not mask[4, 4]
