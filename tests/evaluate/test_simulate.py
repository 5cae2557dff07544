"""Prompts from true masks, on masks small enough to know the answer."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray
from scipy import ndimage

from sam_edge.evaluate.simulate import (
    Click,
    correction_click,
    erode,
    first_click,
    jittered_box,
    mask_prompt,
    tight_box,
)

Mask = NDArray[np.bool_]

masks = st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=14).flatmap(
    lambda shape: st_numpy.arrays(np.bool_, shape)
)


def drawn(*rows: str) -> Mask:
    return np.array([[character == "#" for character in row] for row in rows])


def test_a_box_runs_along_pixel_edges() -> None:
    assert tight_box(drawn("....", ".##.", ".#..")).tolist() == [1, 1, 3, 3]
    assert tight_box(drawn("..", ".#")).tolist() == [1, 1, 2, 2]


@given(st.integers(0, 10_000))
def test_jitter_comes_from_the_object_id_and_stays_near(object_id: int) -> None:
    mask = np.zeros((400, 500), np.bool_)
    mask[100:300, 100:420] = True
    box = jittered_box(mask, object_id)
    assert np.array_equal(box, jittered_box(mask, object_id))
    moved = np.abs(box - tight_box(mask))
    assert (moved <= 20).all()
    assert not np.array_equal(box, jittered_box(mask, object_id + 1))


def test_jitter_is_a_tenth_of_each_side_and_at_most_20_px() -> None:
    mask = np.zeros((900, 900), np.bool_)
    mask[400:440, 300:380] = True  # 80 wide, 40 high
    moved = np.array([jittered_box(mask, i) for i in range(2000)]) - tight_box(mask)
    np.testing.assert_allclose(moved.std(axis=0), [8, 4, 8, 4], rtol=0.06)
    np.testing.assert_allclose(moved.mean(axis=0), 0, atol=0.6)
    large = np.zeros((900, 900), np.bool_)
    large[100:800, 100:800] = True
    assert np.abs(np.array([jittered_box(large, i) for i in range(200)]) - tight_box(large)).max() == 20


def test_a_jittered_box_stays_on_the_photo() -> None:
    whole = np.ones((60, 80), np.bool_)
    boxes = np.array([jittered_box(whole, i) for i in range(100)])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [80, 60]).all()


def test_a_click_is_the_middle_of_the_widest_part() -> None:
    mask = drawn(
        "..........",
        ".#####....",
        ".#####....",
        ".########.",
        ".#####....",
        ".#####....",
        "..........",
    )
    assert first_click(mask) == Click(3, 3, 1)


def test_a_tie_goes_to_the_first_pixel_in_row_order() -> None:
    assert first_click(drawn("......", ".####.", ".####.", "......")) == Click(1, 1, 1)
    assert first_click(drawn("......", "....#.", ".#....")) == Click(4, 1, 1)


def test_beyond_the_photo_is_outside() -> None:
    # Were the border not outside, the corner pixel would be the deepest.
    assert first_click(np.ones((5, 5), np.bool_)) == Click(2, 2, 1)
    half = np.zeros((7, 9), np.bool_)
    half[:, :5] = True
    assert first_click(half) == Click(2, 2, 1)


@settings(deadline=None)
@given(masks)
def test_a_click_is_where_scipy_finds_the_deepest_pixel(mask: Mask) -> None:
    if not mask.any():
        return
    depth = np.rint(ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] ** 2)
    y, x = np.unravel_index(int(np.argmax(depth)), depth.shape)
    assert first_click(mask) == Click(int(x), int(y), 1)


def test_a_correction_goes_to_the_larger_error() -> None:
    truth = np.zeros((20, 20), np.bool_)
    truth[2:12, 2:12] = True
    missed_a_lot = np.zeros_like(truth)
    missed_a_lot[2:12, 2:5] = True
    click = correction_click(truth, missed_a_lot, [])
    assert click == Click(8, 5, 1)
    covers_too_much = truth.copy()
    covers_too_much[13:20, 0:20] = True
    assert correction_click(truth, covers_too_much, []) == Click(3, 16, 0)


def test_a_correction_is_foreground_only_where_the_missed_region_is_strictly_deeper() -> None:
    truth = drawn("###...", "###...", "###...")
    predicted = drawn("...###", "...###", "...###")
    assert correction_click(truth, predicted, []) == Click(4, 1, 0)


def test_no_pixel_is_clicked_twice() -> None:
    truth, nothing = drawn("###", "###", "###"), np.zeros((3, 3), np.bool_)
    clicks: list[Click] = []
    for _ in range(9):
        click = correction_click(truth, nothing, clicks)
        assert click is not None
        clicks.append(click)
    assert clicks[0] == Click(1, 1, 1)
    assert len({click[:2] for click in clicks}) == 9
    assert correction_click(truth, nothing, clicks) is None


def test_a_perfect_mask_needs_no_correction() -> None:
    truth = drawn("....", ".##.", "....")
    assert correction_click(truth, truth, []) is None


@settings(deadline=None)
@given(masks)
def test_a_correction_lies_on_an_error_of_its_kind(truth: Mask) -> None:
    predicted = np.roll(truth, 1, axis=1)
    click = correction_click(truth, predicted, [])
    if click is None:
        assert np.array_equal(truth, predicted)
    else:
        assert truth[click.y, click.x] == bool(click.label)
        assert predicted[click.y, click.x] != bool(click.label)


def test_erosion_takes_five_percent_of_the_equivalent_radius() -> None:
    y, x = np.mgrid[:301, :301]
    disc = (x - 150) ** 2 + (y - 150) ** 2 <= 120**2
    left = np.sqrt(erode(disc).sum() / np.pi)
    assert 5.4 <= 120 - left <= 6.6  # 5 % of 120 px is 6
    small = (x - 150) ** 2 + (y - 150) ** 2 <= 10**2
    assert np.array_equal(erode(small), small)


def test_a_mask_prompt_is_eight_inside_minus_eight_outside_and_in_the_padding() -> None:
    mask = np.zeros((60, 120), np.bool_)
    mask[:, :60] = True
    logits = mask_prompt(mask, (32, 64), 16)  # a 64 px model: the photo fills 32 rows, which are 8 rows of cells
    assert logits.shape == (1, 16, 16)
    assert logits.dtype == np.float32
    assert (logits[0, :8, :8] == 8).all()
    assert (logits[0, :8, 8:] == -8).all()
    assert (logits[0, 8:] == -8).all()


def test_a_mask_prompt_of_a_photo_smaller_than_the_model_is_enlarged() -> None:
    mask = np.zeros((8, 16), np.bool_)
    mask[:, :8] = True
    logits = mask_prompt(mask, (32, 64), 16)
    assert (logits[0, :8, :8] == 8).all()
    assert (logits[0, :8, 8:] == -8).all()
