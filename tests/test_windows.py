"""The windowed upscaling agrees with the whole one, on odd sizes too."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_edge.contract import Float32
from sam_edge.image import resized_size
from sam_edge.masks import upscale_logits
from sam_edge.windows import upscale_window
from tests.golden_data import golden


def full_size(low_res: Float32, level: float, input_size: tuple[int, int], size: tuple[int, int]) -> Float32:
    """The window's logits in a photo of minus infinity."""
    window = upscale_window(low_res, level, input_size, size)
    out = np.full(size, -np.inf, np.float32)
    height, width = window.logits.shape
    out[window.top : window.top + height, window.left : window.left + width] = window.logits
    return out


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.integers(0, 10_000),
    st.sampled_from([0.0, -1.0]),
    st.floats(-6, 2),
)
def test_every_pixel_above_the_level_is_in_the_window_with_its_logit(
    height: int, width: int, seed: int, level: float, mean: float
) -> None:
    random = np.random.default_rng(seed)
    low_res = random.normal(mean, 2, (16, 16)).astype(np.float32)
    input_size = resized_size((height, width), 64)
    whole = upscale_logits(low_res, 64, input_size, (height, width))
    windowed = full_size(low_res, level, input_size, (height, width))
    sure = np.abs(whole - level) > 1e-4  # within, a weight's last bit decides
    np.testing.assert_array_equal((windowed > level)[sure], (whole > level)[sure])
    above = (whole > level) & sure
    np.testing.assert_allclose(windowed[above], whole[above], rtol=0, atol=1e-4)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 15),
    st.integers(0, 15),
    st.sampled_from([(48, 64), (60, 80), (90, 120), (160, 96), (128, 128), (24, 32), (45, 80)]),
    st.integers(0, 1000),
)
def test_a_single_cell_anywhere_gives_the_same_pixels_and_logits(
    row: int, column: int, size: tuple[int, int], seed: int
) -> None:
    """Sizes whose ratio to the model's is simple, so that windows are small; the cell may lie in the padding."""
    low_res = np.random.default_rng(seed).uniform(-9, -0.1, (16, 16)).astype(np.float32)
    low_res[row, column] = 40
    input_size = resized_size(size, 64)
    whole = upscale_logits(low_res, 64, input_size, size)
    windowed = full_size(low_res, 0, input_size, size)
    above = whole > 1e-4
    np.testing.assert_array_equal(windowed > 1e-4, above)
    np.testing.assert_allclose(windowed[above], whole[above], rtol=0, atol=1e-4)


def test_a_small_object_costs_a_small_window() -> None:
    low_res = np.full((64, 64), -3, np.float32)
    low_res[10:14, 40:44] = 3
    window = upscale_window(low_res, -1, (192, 256), (1920, 2560))
    assert window.logits.size < 0.03 * 1920 * 2560


def test_a_mask_below_the_level_everywhere_has_an_empty_window() -> None:
    assert upscale_window(np.full((64, 64), -3, np.float32), -1, (192, 256), (480, 640)).logits.size == 0


def test_what_lies_in_the_padding_only_has_no_pixel() -> None:
    low_res = np.full((64, 64), -3, np.float32)
    low_res[60:, :] = 3
    assert not (full_size(low_res, 0, (192, 256), (480, 640)) > 0).any()


def test_golden_logits_agree_through_windows_too() -> None:
    values = golden("utils")
    for case in range(4):
        (h, w), (height, width) = values[f"post/sizes_{case}"].tolist()
        stride = int(values[f"post/stride_{case}"])
        for low_res, expected in zip(values["post/low_res"][:, 0], values[f"post/logits_{case}"][:, 0], strict=True):
            got = full_size(low_res, -np.inf, (h, w), (height, width))
            np.testing.assert_allclose(got[::stride, ::stride], expected, rtol=0, atol=3e-4)
