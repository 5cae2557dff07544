"""Masks as pictures: overlays with prompt marks, cutouts, comparisons with the truth.

Arrays are (H, W, 3) uint8 RGB and (H, W) bool; points and boxes are photo pixels. NumPy, OpenCV and Pillow only.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_edge.contract import LABEL_FOREGROUND

__all__ = ["PALETTE", "PICTURE_SUFFIXES", "WHITE", "comparison", "cutout", "encode_picture", "overlay"]

Picture: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]
Colour: TypeAlias = tuple[int, int, int]

# Okabe and Ito's palette, told apart with every common kind of colour blindness; the first serves single masks.
PALETTE: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
)
WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
TRUTH: Colour = (255, 176, 0)
FOREGROUND_MARK: Colour = (0, 158, 115)
BACKGROUND_MARK: Colour = (213, 94, 0)
PICTURE_SUFFIXES: dict[str, tuple[str, dict[str, int]]] = {
    ".png": ("PNG", {"compress_level": 4}),  # of 9; three times as fast as 6 for 5 % more bytes
    ".jpg": ("JPEG", {"quality": 92}),
    ".jpeg": ("JPEG", {"quality": 92}),
    ".webp": ("WEBP", {"quality": 92}),
}
FILL_OPACITY = 0.45
SUBPIXEL_BITS = 4  # OpenCV draws at 1/16 px
SMOOTHING_PX = 1.0  # takes the staircase out of a drawn contour; the mask itself is not touched


def overlay(
    image: Picture,
    masks: Iterable[Mask],
    *,
    outline: Colour | None = None,
    points: Iterable[tuple[float, float, int]] = (),
    boxes: Iterable[Sequence[float]] = (),
) -> Picture:
    """The photo with every mask tinted and outlined, later ones on top, and the prompts marked.

    Masks are taken one at a time. outline: None draws each contour in the mask's own colour.
    points: (x, y, label), label 1 is drawn as plus and 0 as minus; boxes xyxy.
    """
    canvas = image.astype(np.float32)
    width = _line_width(image)
    for mask, colour in zip(masks, itertools.cycle(PALETTE), strict=False):
        _paint(canvas, mask, fill=colour, line=outline or colour, width=width)
    return _with_prompts(canvas, points, boxes, width)


def comparison(
    image: Picture,
    predicted: Mask,
    truth: Mask,
    *,
    points: Iterable[tuple[float, float, int]] = (),
    boxes: Iterable[Sequence[float]] = (),
) -> Picture:
    """An overlay of the predicted mask with the outline of the true one in orange."""
    canvas = image.astype(np.float32)
    width = _line_width(image)
    _paint(canvas, predicted, fill=PALETTE[0], line=WHITE, width=width)
    _paint(canvas, truth, fill=None, line=TRUTH, width=width)
    return _with_prompts(canvas, points, boxes, width)


def cutout(image: Picture, mask: Mask) -> NDArray[np.uint8]:
    """The object alone, (h, w, 4) uint8 RGBA, cropped to the tight box of `mask`, which holds at least one pixel.

    The alpha channel is softened along the edge; alpha >= 128 is exactly the mask.
    """
    rows, cols = _crop(mask, 0)
    soft = np.rint(255 * _coverage(_signed_distance(mask[rows, cols], outside_beyond=True)))
    inside = mask[rows, cols]
    alpha = np.where(inside, np.maximum(soft, 128), np.minimum(soft, 127)).astype(np.uint8)
    return np.dstack([image[rows, cols], alpha])


def encode_picture(picture: NDArray[np.uint8], suffix: str) -> bytes:
    """A picture (H, W), (H, W, 3) or (H, W, 4) uint8 as a file's bytes; suffix: of PICTURE_SUFFIXES."""
    buffer = io.BytesIO()
    kind, options = PICTURE_SUFFIXES[suffix]
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


def _with_prompts(
    canvas: NDArray[np.float32],
    points: Iterable[tuple[float, float, int]],
    boxes: Iterable[Sequence[float]],
    width: float,
) -> Picture:
    picture = np.rint(canvas).astype(np.uint8)
    for box in boxes:
        _draw_box(picture, box, width)
    for point in points:
        _draw_point(picture, point, width)
    return picture


def _line_width(image: Picture) -> float:
    return max(1.5, float(max(image.shape[:2])) / 350)


def _crop(mask: Mask, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the tight box and `margin` pixels around it, inside the photo; empty for an empty mask."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + 1 + margin),
        slice(max(0, int(cols[0]) - margin), int(cols[-1]) + 1 + margin),
    )


def _signed_distance(mask: Mask, *, outside_beyond: bool) -> NDArray[np.float32]:
    """Distance in px of each pixel centre to the smoothed contour, positive inside. mask (h, w) bool, not empty.

    outside_beyond: whether all beyond the array is outside, so that its border is contour too.
    """
    padded = np.pad(mask, 4, mode="constant") if outside_beyond else np.pad(mask, 4, mode="edge")
    inside = cv2.distanceTransform(padded.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    outside = cv2.distanceTransform((~padded).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    signed = np.where(padded, np.minimum(inside, 1e4) - 0.5, 0.5 - np.minimum(outside, 1e4)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(signed, (0, 0), SMOOTHING_PX)[4:-4, 4:-4], np.float32)


def _coverage(distance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Share of a pixel that lies on the positive side of a contour at `distance` px."""
    covered: NDArray[np.float32] = np.clip(distance + 0.5, 0.0, 1.0)
    return covered


def _paint(canvas: NDArray[np.float32], mask: Mask, *, fill: Colour | None, line: Colour, width: float) -> None:
    """Tint the mask with `fill` and draw its contour in `line` with a dark halo, in place."""
    rows, cols = _crop(mask, int(2 * width) + 4)
    crop = mask[rows, cols]
    if not crop.size:
        return
    distance = _signed_distance(crop, outside_beyond=False)
    from_line: NDArray[np.float32] = np.abs(distance)
    part = canvas[rows, cols]
    if fill is not None:
        _blend(part, fill, FILL_OPACITY * _coverage(distance))
    _blend(part, BLACK, 0.45 * _coverage(np.float32(width) - from_line))
    _blend(part, line, _coverage(np.float32(width / 2) - from_line))


def _blend(part: NDArray[np.float32], colour: Colour, opacity: NDArray[np.float32]) -> None:
    part += opacity[..., None] * (np.array(colour, np.float32) - part)


def _draw_box(picture: Picture, box: Sequence[float], width: float) -> None:
    x0, y0, x1, y1 = (_fixed(value - 0.5) for value in box)  # OpenCV's whole numbers are pixel centres
    for colour, thickness in ((BLACK, width + 2), (WHITE, width)):
        cv2.rectangle(picture, (x0, y0), (x1, y1), colour, max(1, round(thickness)), cv2.LINE_AA, SUBPIXEL_BITS)


def _draw_point(picture: Picture, point: tuple[float, float, int], width: float) -> None:
    x, y, label = point
    radius = 3.5 * width
    colour = FOREGROUND_MARK if label == LABEL_FOREGROUND else BACKGROUND_MARK
    centre = (_fixed(x), _fixed(y))
    for ring, size in ((BLACK, radius + 1.6 * width), (WHITE, radius + width), (colour, radius)):
        cv2.circle(picture, centre, _fixed(size), ring, -1, cv2.LINE_AA, SUBPIXEL_BITS)
    arm, thickness = 0.6 * radius, max(1, round(width))
    bars = [((x - arm, y), (x + arm, y))]
    if label == LABEL_FOREGROUND:
        bars.append(((x, y - arm), (x, y + arm)))
    for start, end in bars:
        first, last = (_fixed(start[0]), _fixed(start[1])), (_fixed(end[0]), _fixed(end[1]))
        cv2.line(picture, first, last, WHITE, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def _fixed(value: float) -> int:
    return round(value * (1 << SUBPIXEL_BITS))
