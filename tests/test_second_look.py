from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sam_edge
from sam_edge.contract import Runtime
from sam_edge.image import Photo, read_photo
from sam_edge.predictor import SamPredictor
from sam_edge.second_look import LookConfig, SecondLook, crop_around

PHOTO = Path(__file__).parents[1] / "sam_edge" / "assets" / "photos" / "astronaut.jpg"
BOX = np.array([310.0, 20.0, 370.0, 90.0])  # a small part of 512 x 512 px: the badge on the shoulder's side


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return sam_edge.load("nano", runtime="onnx", threads=1)


@pytest.fixture(scope="module")
def photo() -> Photo:
    return read_photo(PHOTO)


@given(
    st.integers(8, 900),
    st.integers(8, 900),
    st.tuples(*[st.floats(0, 1, width=32)] * 4),
)
def test_a_crop_lies_in_the_photo_and_holds_the_box(height: int, width: int, corners: tuple[float, ...]) -> None:
    xs, ys = sorted(corners[:2]), sorted(corners[2:])
    box = np.array([xs[0] * width, ys[0] * height, xs[1] * width, ys[1] * height])
    crop = crop_around(box, (height, width))
    if crop is None:
        return
    x0, y0, x1, y1 = crop
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    assert x0 - 1 <= box[0] and y0 - 1 <= box[1] and box[2] <= x1 + 1 and box[3] <= y1 + 1
    config = LookConfig()
    assert max(x1 - x0, y1 - y0) * config.min_zoom <= max(height, width) + 2


def test_an_object_that_fills_the_photo_is_not_looked_at_again(runtime: Runtime, photo: Photo) -> None:
    look = SecondLook(runtime, photo)
    first = np.full(photo.shape[:2], 3.0, np.float32)
    assert look.refine(first, box=[0, 0, 512, 512]) is first
    assert look.timings_ms == {}


def test_where_nothing_was_found_nothing_is_made_up(runtime: Runtime, photo: Photo) -> None:
    first = np.full(photo.shape[:2], -3.0, np.float32)
    assert SecondLook(runtime, photo).refine(first, [[256, 256]], [1]) is first


def test_a_second_look_changes_the_mask_inside_its_crop_alone(runtime: Runtime, photo: Photo) -> None:
    predictor = SamPredictor(runtime)
    predictor.set_image(photo)
    before = predictor.get_image_embedding().copy()
    first = predictor.predict(box=BOX, multimask_output=False, return_logits=True)[0][0]
    look = SecondLook(runtime, photo)
    merged = look.refine(first, box=BOX)
    crop = crop_around(BOX, (photo.shape[0], photo.shape[1]))
    assert crop is not None
    x0, y0, x1, y1 = crop
    outside = np.ones(first.shape, bool)
    outside[y0:y1, x0:x1] = False
    assert np.array_equal(merged[outside], first[outside])
    assert not np.array_equal(merged[~outside], first[~outside])
    a, b = merged > 0, first > 0
    assert (a & b).sum() / (a | b).sum() > 0.5  # the same object, in the same place
    assert np.array_equal(predictor.get_image_embedding(), before)
    assert set(look.timings_ms) == {"preprocess", "encode", "decode", "postprocess"}


def test_clicks_outside_the_crop_do_not_disturb_it(runtime: Runtime, photo: Photo) -> None:
    first = np.full(photo.shape[:2], -3.0, np.float32)
    first[20:90, 310:370] = 3.0
    look = SecondLook(runtime, photo)
    inside, outside = [[340, 55]], [[340, 55], [5, 500]]
    assert np.array_equal(look.refine(first, inside, [1]), look.refine(first, outside, [1, 0]))


def test_a_mask_away_from_every_click_is_left_as_it_is(runtime: Runtime, photo: Photo) -> None:
    first = np.full(photo.shape[:2], -3.0, np.float32)
    first[20:90, 310:370] = 3.0
    assert SecondLook(runtime, photo).refine(first, [[5, 500]], [1]) is first
