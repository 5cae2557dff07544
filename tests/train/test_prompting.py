from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sam_edge.contract import (
    LABEL_BACKGROUND,
    LABEL_BOX_BOTTOM_RIGHT,
    LABEL_BOX_TOP_LEFT,
    LABEL_FOREGROUND,
    LABEL_PADDING,
)
from sam_edge.train.prompting import KINDS, PromptMix, correction_clicks, first_prompt

SIZE = 64


def disc(x: int, y: int, radius: int, size: int = SIZE) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:size, :size]
    return ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2).astype(np.uint8)


def only(kind: str) -> PromptMix:
    return PromptMix(**{k: float(k == kind) for k in KINDS}, centre_clicks=0.5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(8, 55), st.integers(8, 55), st.integers(2, 20), st.sampled_from(KINDS))
def test_a_first_prompt_points_at_the_object_and_fits_the_contract(
    seed: int, x: int, y: int, radius: int, kind: str
) -> None:
    mask = disc(x, y, radius)
    prompt = first_prompt(mask, only(kind), np.random.default_rng(seed))
    assert prompt.coords.shape == (len(prompt.labels), 2)
    for (px, py), label in zip(prompt.coords, prompt.labels, strict=True):
        if label == LABEL_FOREGROUND:
            assert mask[int(py), int(px)]
        if label == LABEL_BACKGROUND:
            assert not mask[int(py), int(px)]
    labels = prompt.labels.tolist()
    has_box = LABEL_BOX_TOP_LEFT in labels
    assert has_box == (LABEL_BOX_BOTTOM_RIGHT in labels)
    assert labels.count(LABEL_PADDING) == (0 if has_box else 1)  # SAM's padding point, only without a box
    assert prompt.has_mask == (kind == "mask_click")
    assert prompt.mask_input.any() == (kind == "mask_click")


def test_a_box_prompt_lies_on_the_pixel_edges_of_the_mask() -> None:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[10:20, 30:45] = 1
    prompt = first_prompt(mask, only("box"), np.random.default_rng(0))
    assert prompt.coords.ravel().tolist() == [30, 10, 45, 20]


def test_a_correction_goes_into_the_larger_wrong_region() -> None:
    truth = disc(20, 32, 10).astype(bool)
    missing_much = np.zeros_like(truth)
    covering_much = truth | disc(50, 32, 12).astype(bool)
    coords, labels = correction_clicks(np.stack([missing_much, covering_much]), np.stack([truth, truth]))
    assert labels.tolist() == [LABEL_FOREGROUND, LABEL_BACKGROUND]
    assert coords[0] == pytest.approx([20.5 * 4 - 0.5, 32.5 * 4 - 0.5])  # the cell's centre in pixels of the frame
    assert coords[1] == pytest.approx([50.5 * 4 - 0.5, 32.5 * 4 - 0.5], abs=4)


def test_equally_deep_errors_are_corrected_as_background_and_a_perfect_mask_at_its_centre() -> None:
    truth, wrong = disc(16, 32, 8).astype(bool), disc(48, 32, 8).astype(bool)
    coords, labels = correction_clicks(np.stack([wrong, truth]), np.stack([truth, truth]))
    assert labels.tolist() == [LABEL_BACKGROUND, LABEL_FOREGROUND]
    assert coords[1] == pytest.approx([16.5 * 4 - 0.5, 32.5 * 4 - 0.5])


def test_an_empty_object_still_gets_a_prompt_of_every_kind() -> None:
    empty = np.zeros((SIZE, SIZE), np.uint8)
    for kind in KINDS:
        prompt = first_prompt(empty, only(kind), np.random.default_rng(1))
        assert np.isfinite(prompt.coords).all() and len(prompt.labels) >= 2
