"""From a decoder's logits to masks at the photo's size; NumPy and OpenCV only.

What a mask becomes afterwards is in `rle.py` (run lengths) and `boxes.py`; `windows.py` upscales only where a mask is.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_edge.contract import MASK_THRESHOLD, Float32, Prediction
from sam_edge.image import Size

__all__ = ["remove_small_regions", "select_masks", "stability_score", "upscale_logits", "upscale_masks"]


def select_masks(prediction: Prediction, multimask: bool) -> tuple[Float32, Float32]:
    """The masks a caller asked for, and their IoU: (B, 3, S/4, S/4) and (B, 3), or (B, 1, S/4, S/4) and (B, 1).

    Mask 0 was trained to answer alone, masks 1 to 3 to answer an ambiguous prompt (mask_decoder.py).
    """
    chosen = slice(1, None) if multimask else slice(0, 1)
    return prediction.low_res_masks[:, chosen], prediction.iou_predictions[:, chosen]


def upscale_logits(low_res_masks: Float32, image_size: int, input_size: Size, original_size: Size) -> Float32:
    """(..., S/4, S/4) to (..., H, W) logits: to the model's side S, cropped to (h, w), then to the photo.

    Both steps bilinear, pixel centres at halves. One step instead of two moves thousands of pixels (sam.py,
    postprocess_masks).
    """
    flat = low_res_masks.reshape(-1, *low_res_masks.shape[-2:])
    out = np.empty((len(flat), *original_size), np.float32)
    for index, logits in enumerate(flat):
        out[index] = _upscale(logits, image_size, input_size, original_size)
    return out.reshape(*low_res_masks.shape[:-2], *original_size)


def upscale_masks(
    low_res_masks: Float32,
    image_size: int,
    input_size: Size,
    original_size: Size,
    threshold: float = MASK_THRESHOLD,
) -> NDArray[np.bool_]:
    """(..., S/4, S/4) to (..., H, W) bool; at most one mask exists as full-size logits at a time."""
    flat = low_res_masks.reshape(-1, *low_res_masks.shape[-2:])
    out = np.empty((len(flat), *original_size), np.bool_)
    for index, logits in enumerate(flat):
        np.greater(_upscale(logits, image_size, input_size, original_size), threshold, out=out[index])
    return out.reshape(*low_res_masks.shape[:-2], *original_size)


def _upscale(logits: Float32, image_size: int, input_size: Size, original_size: Size) -> Float32:
    height, width = input_size
    at_model_size = cv2.resize(logits, (image_size, image_size), interpolation=cv2.INTER_LINEAR)[:height, :width]
    if input_size == original_size:
        return np.asarray(at_model_size, np.float32)
    resized = cv2.resize(at_model_size, (original_size[1], original_size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.float32)


def stability_score(logits: Float32, threshold: float, offset: float) -> Float32:
    """(..., H, W) logits to (...) float32: the mask's area at threshold + offset by its area at threshold - offset.

    The smaller mask lies in the larger, so this is their IoU (SAM paper, appendix B). Without any pixel it is NaN,
    which passes no comparison.
    """
    inner = _areas(logits, threshold + offset)
    outer = _areas(logits, threshold - offset)
    with np.errstate(invalid="ignore"):
        return inner / outer


def _areas(logits: Float32, level: float) -> Float32:
    """Pixels above `level` of each of (..., H, W). Mask by mask: NumPy counts along axes several times slower."""
    areas = np.empty(logits.shape[:-2], np.float32)
    for index in np.ndindex(areas.shape):
        areas[index] = np.count_nonzero(logits[index] > level)
    return areas


def remove_small_regions(
    mask: NDArray[np.bool_], area_threshold: float, mode: Literal["holes", "islands"]
) -> tuple[NDArray[np.bool_], bool]:
    """Fill holes, or drop islands, of fewer than `area_threshold` pixels, 8-connected; and whether there were any.

    mask (H, W) bool. Where every island is small, the largest one stays.
    """
    holes = mode == "holes"
    searched = (mask ^ holes).astype(np.uint8)
    _, regions, statistics, _ = cv2.connectedComponentsWithStats(searched, connectivity=8)
    areas = statistics[:, cv2.CC_STAT_AREA]
    small = areas < area_threshold
    small[0] = False  # region 0 is what was not searched
    if not small.any():
        return mask, False
    if holes:
        return mask | small[regions], True
    kept = ~small
    kept[0] = False
    if not kept.any():
        kept[1 + areas[1:].argmax()] = True
    return kept[regions], True
