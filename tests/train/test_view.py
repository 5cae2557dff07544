"""What a training sample shows of a photo is what inference would show."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_edge.image import resize_longest_side, resized_size
from sam_edge.train.view import View

SIDE = 64


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(48, 64), (301, 487), (487, 301), (20, 33)])
def test_a_whole_photo_is_drawn_as_inference_draws_it(size: tuple[int, int]) -> None:
    photo = noise(*size)
    view = View.whole(size, SIDE)
    height, width = resized_size(size, SIDE)
    expected = resize_longest_side(photo, SIDE)
    drawn = view.of_photo(photo)[:height, :width]
    assert np.abs(drawn.astype(int) - expected).max() <= 2  # enlarging rounds elsewhere; shrinking is the same call
    assert view.inside().sum() == height * width and view.inside()[:height, :width].all()
    mirrored = view.flipped()
    assert np.abs(mirrored.of_photo(photo)[:height, :width].astype(int) - expected[:, ::-1]).max() <= 2
    assert (mirrored.inside() == view.inside()).all()


def test_shrinking_averages_and_keeps_thin_things_in_one_piece() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    view = View.window((512, 512), SIDE, SIDE / 400, 31.3, 17.9)
    inner = view.of_photo(stripes)[4:-4, 4:-4]
    assert np.abs(inner.astype(int) - 127).max() < 12  # single pixels would be 0 or 255
    diagonal = np.abs(np.subtract.outer(np.arange(512), np.arange(512))) < 7
    wire = view.of_mask(diagonal)
    assert (wire[8:-8].sum(1) > 0).all()  # no row without it: a wire, not dashes


@settings(max_examples=40, deadline=None)
@given(
    st.integers(20, 300), st.integers(20, 300), st.floats(0.2, 3), st.floats(0, 0.6), st.floats(0, 0.6), st.booleans()
)
def test_a_mask_stays_on_what_it_was_drawn_on(
    height: int, width: int, scale: float, left: float, top: float, flip: bool
) -> None:
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2 + 2, width // 4 : width // 2 + 2] = True
    photo = np.repeat(mask[:, :, None], 3, 2).astype(np.uint8) * 255
    view = View.window((height, width), SIDE, scale, left * width, top * height)
    view = view.flipped() if flip else view
    assert (view.of_mask(mask).astype(bool) == (view.of_photo(photo)[:, :, 0] > 127)).all()
