"""Preprocessing inside the graph gives what `image.preprocess` gives, for a photo of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sam_edge.contract import ModelSpec
from sam_edge.export.photo_input import PhotoInput, bilinear_weights
from sam_edge.image import preprocess, read_photo
from sam_edge.runtimes import ASSETS

SPEC = ModelSpec("test", image_size=96, embedding_channels=8, pixel_mean=(1.0, 2.0, 3.0), pixel_std=(4.0, 5.0, 6.0))
STD = np.array(SPEC.pixel_std)[:, None, None]
GREY_LEVEL = 1 + 1e-3


def largest_difference_grey_levels(photo: np.ndarray) -> float:
    expected, _ = preprocess(photo, SPEC)
    got = PhotoInput(SPEC)(torch.from_numpy(photo)).numpy()
    assert got.shape == expected.shape
    return float(np.abs((got - expected)[0] * STD).max())


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 400), width=st.integers(1, 400), seed=st.integers(0, 99))
@example(height=1, width=4000, seed=0)
@example(height=1, width=1, seed=0)
@example(height=96, width=96, seed=0)
def test_any_photo_is_preprocessed_within_one_grey_level(height: int, width: int, seed: int) -> None:
    photo = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    assert largest_difference_grey_levels(photo) <= GREY_LEVEL


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_real_photos_are_preprocessed_within_one_grey_level(name: str) -> None:
    assert largest_difference_grey_levels(read_photo(ASSETS / "photos" / f"{name}.jpg")) <= GREY_LEVEL


@settings(deadline=None)
@given(size=st.integers(1, 300), new_size=st.integers(1, 300))
def test_the_shares_of_a_new_pixel_sum_to_one(size: int, new_size: int) -> None:
    weights = bilinear_weights(size, new_size)
    assert weights.shape == (new_size, size)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(new_size))


@settings(deadline=None)
@given(size=st.integers(1, 300))
def test_the_same_size_leaves_every_pixel(size: int) -> None:
    torch.testing.assert_close(bilinear_weights(size, size), torch.eye(size))
