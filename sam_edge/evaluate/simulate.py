"""Prompts made from an object's true mask: the protocol's prompt kinds (evaluation protocol, section 1).

Coordinates are photo pixels, x then y. A click is a whole pixel; a box runs along pixel edges.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_edge.contract import LABEL_BACKGROUND, LABEL_FOREGROUND, MASK_STRIDE, Float32
from sam_edge.evaluate.metrics import span

__all__ = [
    "Click",
    "correction_click",
    "erode",
    "first_click",
    "jittered_box",
    "mask_prompt",
    "tight_box",
]

JITTER_SHARE = 0.1  # of the box's side, as standard deviation (SAM paper, appendix A, training algorithm)
JITTER_MOST_PX = 20.0
EROSION_SHARE = 0.05  # of the object's equivalent radius
MASK_PROMPT_LOGIT = 8.0

Mask = NDArray[np.bool_]


class Click(NamedTuple):
    """A pixel and what it says: LABEL_FOREGROUND or LABEL_BACKGROUND."""

    x: int
    y: int
    label: int


def tight_box(mask: Mask) -> NDArray[np.float64]:
    """The box (4,) xyxy along the pixel edges of a (H, W) bool mask that holds at least one pixel."""
    rows, cols = span(mask)
    return np.array([cols.start, rows.start, cols.stop, rows.stop], np.float64)


def jittered_box(mask: Mask, object_id: int) -> NDArray[np.float64]:
    """The tight box (4,) xyxy with each side moved by a normal draw of 10 % of its length, at most 20 px.

    Seeded by the object's id, in the order x0, y0, x1, y1; kept inside the photo.
    """
    box = tight_box(mask)
    lengths = np.tile(box[2:] - box[:2], 2)
    draws = np.random.default_rng(object_id).standard_normal(4)
    moved = box + np.clip(draws * JITTER_SHARE * lengths, -JITTER_MOST_PX, JITTER_MOST_PX)
    height, width = mask.shape
    return np.clip(moved, 0.0, [width, height, width, height])


def first_click(mask: Mask) -> Click:
    """The object's pixel farthest from all that is not the object, the photo's border counted as outside."""
    _, x, y = _deepest_pixel(mask, ())
    return Click(x, y, LABEL_FOREGROUND)


def correction_click(truth: Mask, predicted: Mask, clicks: Collection[Click]) -> Click | None:
    """The next click as RITM and SAM 2 place it: the deepest pixel of the missed or the wrongly covered region.

    Foreground only where the missed region is strictly deeper. A pixel is not clicked twice. None where there is no
    pixel left to correct.
    """
    missed_depth, missed_x, missed_y = _deepest_pixel(truth & ~predicted, clicks)
    wrong_depth, wrong_x, wrong_y = _deepest_pixel(predicted & ~truth, clicks)
    if missed_depth == wrong_depth == 0:
        return None
    if missed_depth > wrong_depth:
        return Click(missed_x, missed_y, LABEL_FOREGROUND)
    return Click(wrong_x, wrong_y, LABEL_BACKGROUND)


def _deepest_pixel(region: Mask, clicks: Collection[Click]) -> tuple[int, int, int]:
    """(squared distance to the outside in px², x, y), ties to the first pixel in row order; depth 0: no pixel.

    Clicked pixels have depth 0 but stay part of the region, as in RITM.
    """
    rows, cols = span(region)
    if rows.stop == 0:
        return 0, 0, 0
    depth = _squared_depth(region[rows, cols])
    for click in clicks:
        if rows.start <= click.y < rows.stop and cols.start <= click.x < cols.stop:
            depth[click.y - rows.start, click.x - cols.start] = 0
    y, x = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return int(depth[y, x]), int(x) + cols.start, int(y) + rows.start


def _squared_depth(region: Mask) -> NDArray[np.int64]:
    """Squared Euclidean distance in px² of every pixel of a (h, w) crop to the nearest one outside the region.

    All beyond the crop is outside. OpenCV's float32 roots of equal integers can differ in the last bit, which would
    decide ties; the integers do not.
    """
    padded = np.pad(region, 1).astype(np.uint8)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return np.rint(np.square(distance, dtype=np.float64)).astype(np.int64)


def erode(mask: Mask) -> Mask:
    """A (H, W) bool mask less all within 5 % of its equivalent radius (that of the disc of equal area) of its edge.

    Edge pixels are one pixel away from the outside, so below 20 px of radius nothing is taken.
    """
    radius_px = math.sqrt(np.count_nonzero(mask) / math.pi)
    rows, cols = span(mask)
    eroded = np.zeros_like(mask)
    if rows.stop:
        eroded[rows, cols] = _squared_depth(mask[rows, cols]) > max((EROSION_SHARE * radius_px) ** 2, 0.5)
    return eroded


def mask_prompt(mask: Mask, input_size: tuple[int, int], mask_size: int) -> Float32:
    """A photo-size mask (H, W) bool as `mask_input` logits of ±8, (1, mask_size, mask_size) float32.

    input_size: (h, w) of the resized photo. A cell is mask where at least half of it is covered; the padding is not.
    """
    height, width = input_size
    shrinks = height <= mask.shape[0] and width <= mask.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    frame = np.zeros((mask_size * MASK_STRIDE, mask_size * MASK_STRIDE), np.float32)
    frame[:height, :width] = cv2.resize(mask.astype(np.float32), (width, height), interpolation=method)
    cells = frame.reshape(mask_size, MASK_STRIDE, mask_size, MASK_STRIDE).mean(axis=(1, 3))
    return np.where(cells >= 0.5, MASK_PROMPT_LOGIT, -MASK_PROMPT_LOGIT).astype(np.float32)[None]
