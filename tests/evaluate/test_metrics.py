"""Metrics on masks small enough to count by hand, and properties that hold for all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray
from scipy import stats

from sam_edge.evaluate.metrics import (
    boundary_iou,
    mask_iou,
    mean_interval,
    pearson,
    size_class,
    span,
    spearman,
)

Mask = NDArray[np.bool_]

two_masks = st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(
    lambda shape: st.tuples(st_numpy.arrays(np.bool_, shape), st_numpy.arrays(np.bool_, shape))
)


def square(size: tuple[int, int], top: int, left: int, side: int) -> Mask:
    mask = np.zeros(size, np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


@given(two_masks)
def test_iou_is_symmetric_and_between_0_and_1(masks: tuple[Mask, Mask]) -> None:
    first, second = masks
    for measure in (mask_iou, boundary_iou):
        assert measure(first, second) == measure(second, first)
        assert 0 <= measure(first, second) <= 1
        assert measure(first, first) == 1


def test_two_empty_masks_agree_and_one_empty_mask_does_not() -> None:
    empty, some = np.zeros((5, 7), np.bool_), square((5, 7), 1, 1, 2)
    for measure in (mask_iou, boundary_iou):
        assert measure(empty, empty) == 1
        assert measure(empty, some) == 0


def test_iou_counts_pixels() -> None:
    assert mask_iou(square((8, 8), 0, 0, 4), square((8, 8), 2, 0, 4)) == 8 / 24


def test_boundary_iou_compares_bands_of_two_percent_of_the_diagonal() -> None:
    # 300 x 400: diagonal 500, so bands of 10 px. The inner square shares nothing of the outer one's band.
    outer, inner = square((300, 400), 20, 20, 200), square((300, 400), 30, 30, 180)
    assert boundary_iou(outer, inner) == 0
    assert mask_iou(outer, inner) == pytest.approx(180**2 / 200**2)
    # One pixel in: the bands share 9 of their 10 px. 200² - 180² = 7600, 198² - 178² = 7520, 198² - 180² = 6804 shared.
    near = square((300, 400), 21, 21, 198)
    assert boundary_iou(outer, near) == pytest.approx(6804 / (7600 + 7520 - 6804))


def test_the_photos_border_is_a_boundary() -> None:
    # The whole photo's band runs along the border; a photo-wide mask without it would have no boundary at all.
    whole = np.ones((300, 400), np.bool_)
    assert boundary_iou(whole, square((300, 400), 50, 50, 100)) == 0
    assert boundary_iou(whole, whole) == 1


def test_a_band_is_at_least_one_pixel_wide() -> None:
    assert boundary_iou(square((8, 8), 1, 1, 5), square((8, 8), 2, 2, 3)) == 0


def test_span_is_tight() -> None:
    assert span(square((9, 9), 2, 3, 4)) == (slice(2, 6), slice(3, 7))
    assert span(np.zeros((3, 3), np.bool_)) == (slice(0, 0), slice(0, 0))


def test_sizes_are_cocos_scaled_to_the_stored_photo() -> None:
    assert [size_class(area, (480, 640)) for area in (1023, 1024, 9215, 9216)] == ["small", "medium", "medium", "large"]
    assert [size_class(area, (320, 240)) for area in (255, 256, 2303, 2304)] == ["small", "medium", "medium", "large"]


def test_bootstrap_interval_is_the_same_every_time_and_holds_the_mean() -> None:
    values = np.random.default_rng(3).random(200)
    photos = np.arange(200) // 4
    low, high = mean_interval(values, photos)
    assert (low, high) == mean_interval(values, photos)
    assert low < values.mean() < high


def test_bootstrap_resamples_photos_not_objects() -> None:
    # Each photo's 50 objects are alike: an interval over objects would be 50 ** 0.5 times too narrow.
    values = np.repeat(np.random.default_rng(0).random(20), 50)
    by_photo = np.subtract(*mean_interval(values, np.repeat(np.arange(20), 50)))
    by_object = np.subtract(*mean_interval(values, np.arange(1000)))
    assert by_photo / by_object == pytest.approx(50**0.5, rel=0.2)


def test_bootstrap_weights_photos_by_their_objects() -> None:
    # One photo of 99 zeros, one of a single one: means of a resample are 0, 0.01 or 1.
    low, high = mean_interval([0.0] * 99 + [1.0], [0] * 99 + [1])
    assert (low, high) == (0.0, 1.0)


def test_interval_of_one_photo_is_its_mean() -> None:
    assert mean_interval([0.25, 0.75], ["a", "a"]) == (0.5, 0.5)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=30))
def test_correlations_are_scipys(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, np.float64).T
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert pearson(first, second) is None
        assert spearman(first, second) is None
    else:
        assert pearson(first, second) == pytest.approx(stats.pearsonr(first, second).statistic)
        assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
