"""Overlays and cutouts: what they promise about pixels."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray
from PIL import Image

from sam_edge import draw


def disc(size: tuple[int, int], x: float, y: float, radius: float) -> NDArray[np.bool_]:
    rows, cols = np.mgrid[: size[0], : size[1]]
    return np.asarray((cols - x) ** 2 + (rows - y) ** 2 <= radius**2)


def grey(size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.full((*size, 3), 128, np.uint8)


masks = st_numpy.arrays(np.bool_, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=20))


def test_an_overlay_tints_the_inside_and_leaves_the_outside() -> None:
    photo = grey((100, 140))
    picture = draw.overlay(photo, [disc((100, 140), 60, 50, 30)], outline=draw.WHITE)
    assert np.array_equal(picture[:10], photo[:10])
    assert picture[50, 60, 2] > 128 > picture[50, 60, 0]
    assert picture[50, 30].mean() > 200, "the outline is white"


def test_a_contour_is_anti_aliased() -> None:
    picture = draw.overlay(grey((100, 140)), [disc((100, 140), 60, 50, 30)], outline=draw.WHITE)
    assert len(np.unique(picture[..., 0])) > 20


def test_masks_get_different_colours_and_later_ones_lie_on_top() -> None:
    below, above = disc((80, 80), 40, 40, 35), disc((80, 80), 40, 40, 12)
    both = draw.overlay(grey((80, 80)), [below, above])
    assert not np.array_equal(both[40, 40], both[40, 62])


def test_colours_differ_in_brightness_for_those_who_see_no_hue() -> None:
    brightness = [np.dot(colour, (0.299, 0.587, 0.114)) for colour in draw.PALETTE]
    distances = sorted(abs(first - second) for first, second in combinations(brightness, 2))
    assert distances[len(distances) // 2] > 30


def test_prompts_are_marked_by_shape_not_by_colour_alone() -> None:
    photo = grey((200, 200))
    plus = draw.overlay(photo, [], points=[(100, 100, 1)])
    minus = draw.overlay(photo, [], points=[(100, 100, 0)])
    assert (plus[97, 100] > 240).all(), "the upright of the plus"
    assert not (minus[97, 100] > 240).all()
    assert (minus[100, 98] > 240).all()
    assert not np.array_equal(photo, draw.overlay(photo, [], boxes=[(20, 30, 90, 80)]))


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_the_smallest_photos_can_be_drawn_on(size: tuple[int, int]) -> None:
    photo, mask = grey(size), np.ones(size, np.bool_)
    picture = draw.overlay(photo, [mask], points=[(0, 0, 1)], boxes=[(0, 0, size[1], size[0])])
    assert picture.shape == photo.shape
    assert draw.cutout(photo, mask).shape == (*size, 4)


def test_an_empty_mask_changes_nothing() -> None:
    photo = grey((20, 30))
    assert np.array_equal(draw.overlay(photo, [np.zeros((20, 30), np.bool_)]), photo)


@settings(deadline=None)
@given(masks)
def test_a_cutout_is_cropped_and_its_alpha_says_exactly_where_the_mask_is(mask: NDArray[np.bool_]) -> None:
    if not mask.any():
        return
    photo = np.random.default_rng(0).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    cut = draw.cutout(photo, mask)
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
    assert np.array_equal(cut[..., 3] >= 128, mask[box])
    assert np.array_equal(cut[..., :3], photo[box])


def test_a_cutouts_edge_is_soft() -> None:
    alpha = draw.cutout(grey((100, 100)), disc((100, 100), 50, 50, 30.3))[..., 3]
    assert len(np.unique(alpha)) > 10
    assert alpha[30, 30] == 255


def test_a_comparison_shows_both_outlines() -> None:
    photo = grey((100, 100))
    picture = draw.comparison(photo, disc((100, 100), 40, 50, 20), disc((100, 100), 60, 50, 20))
    orange = (picture[..., 0] > 200) & (picture[..., 2] < 60)
    white = np.asarray((picture > 230).all(axis=-1))
    assert orange[50, 78:82].any()
    assert white[50, 18:22].any()


@pytest.mark.parametrize("suffix", sorted(draw.PICTURE_SUFFIXES))
def test_pictures_are_written_in_every_format(suffix: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(draw.encode_picture(picture, suffix))) as read:
        assert read.size == (9, 8)
        if suffix == ".png":
            assert np.array_equal(np.asarray(read), picture)
