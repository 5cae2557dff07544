"""One mask at the photo's size, computed only where it can be: everything mode's inner loop.

Bilinear upscaling only averages neighbours, so a pixel above a level has a low-resolution cell above it beside it. The
rest of the photo is below and is never computed. Objects cover a few percent of a photo, so this is most of the work
saved, and a window needs the memory of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_edge.contract import MASK_STRIDE, Float32
from sam_edge.image import Size

__all__ = ["Window", "upscale_window"]


@dataclass(frozen=True)
class Window:
    """Logits (h, w) float32 of a part of the photo; its top-left pixel is at (top, left). Outside all is below."""

    logits: Float32
    top: int
    left: int


def upscale_window(low_res_mask: Float32, level: float, input_size: Size, original_size: Size) -> Window:
    """What `masks.upscale_logits` gives for one mask (S/4, S/4), where it can be above `level`.

    Compared with any number from `level` up, the window's logits and the full-size ones agree in every pixel, but for
    rounding: OpenCV computes a pixel's weight in float32 from its distance to the corner, here a nearer one.
    """
    # Cells that the photo fills, and one more: its value reaches half a cell into the photo.
    filled_rows, filled_columns = (-(-side // MASK_STRIDE) + 1 for side in input_size)
    above = low_res_mask[:filled_rows, :filled_columns] > level
    if not above.any():
        return Window(np.empty((0, 0), np.float32), 0, 0)
    y = _span(np.asarray(above.any(axis=1)), low_res_mask.shape[0], input_size[0], original_size[0])
    x = _span(np.asarray(above.any(axis=0)), low_res_mask.shape[1], input_size[1], original_size[1])
    cells = low_res_mask[y.cells, x.cells]
    size = (cells.shape[1] * MASK_STRIDE, cells.shape[0] * MASK_STRIDE)
    at_model_size = cv2.resize(cells, size, interpolation=cv2.INTER_LINEAR)[y.source, x.source]
    if input_size != original_size:
        at_model_size = cv2.resize(at_model_size, (x.pixels, y.pixels), interpolation=cv2.INTER_LINEAR)
    return Window(np.asarray(at_model_size, np.float32), y.first, x.first)


@dataclass(frozen=True)
class _Span:
    """A window along one axis: the cells to read, what to keep of them at the model's size, and the photo's pixels."""

    cells: slice
    source: slice
    first: int
    pixels: int


def _span(occupied: NDArray[np.bool_], num_cells: int, input_length: int, original_length: int) -> _Span:
    """The window of the occupied cells, along an axis with at least one.

    One cell of margin on each side is below the level, so what a resize repeats at the window's border is below too.
    The border lies where the weights of the second resize begin anew: every `period` pixels of the resized image.
    Where the two lengths have no common divisor, that is the whole axis.
    """
    (hits,) = occupied.nonzero()
    period = input_length // gcd(input_length, original_length)
    start = max(0, int(hits[0]) - 1) * MASK_STRIDE // period * period
    stop = min(-(-(int(hits[-1]) + 2) * MASK_STRIDE // period) * period, input_length)
    first_cell = max(0, start // MASK_STRIDE - 1)  # one more on each side, or the first resize would repeat too early
    last_cell = min(num_cells, -(-stop // MASK_STRIDE) + 1)
    offset = first_cell * MASK_STRIDE
    first, end = (edge * original_length // input_length for edge in (start, stop))
    return _Span(slice(first_cell, last_cell), slice(start - offset, stop - offset), first, end - first)
