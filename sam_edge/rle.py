"""Run lengths of masks, column by column as COCO counts them: {"size": [H, W], "counts": [background, mask, ...]}.

Uncompressed counts are a list of ints; COCO's compressed counts are an ASCII string, made and read by pycocotools.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from sam_edge.errors import DataError
from sam_edge.image import Size

__all__ = ["CocoRle", "Rle", "coco_to_mask", "coco_to_rle", "mask_to_rle", "rle_area", "rle_to_coco", "rle_to_mask"]


class Rle(TypedDict):
    """Uncompressed; the first count is background and may be 0, no other is."""

    size: list[int]
    counts: list[int]


class CocoRle(TypedDict):
    """Compressed."""

    size: list[int]
    counts: str


def mask_to_rle(mask: NDArray[np.bool_], size: Size | None = None, corner: tuple[int, int] = (0, 0)) -> Rle:
    """Runs of a mask (h, w) bool whose top-left pixel lies at `corner` (y, x) of a picture of `size` (H, W).

    Without `size` the mask is the picture. A window costs what the window has in pixels, not the picture.
    """
    height, width = size or (mask.shape[0], mask.shape[1])
    changes = _changes(mask, height, corner)
    if mask.shape[0] == height and changes.size:
        # A run that fills its column to the bottom goes on at the top of the next: both changes fall away.
        meets = changes[1:] == changes[:-1]
        changes = changes[~(np.append(meets, False) | np.append(False, meets))]
    end = height * width
    bounds = np.concatenate([[0], changes[: changes.searchsorted(end)], [end]])
    return {"size": [height, width], "counts": np.diff(bounds).tolist()}


def _changes(mask: NDArray[np.bool_], height: int, corner: tuple[int, int]) -> NDArray[np.int64]:
    """Where background and mask alternate down each column, as ascending pixel numbers column by column.

    Compared row by row and sorted afterwards: the few changes are moved, not the many pixels.
    """
    if mask.size == 0:
        return np.empty(0, np.int64)
    edges = np.empty((mask.shape[0] + 1, mask.shape[1]), np.bool_)
    edges[0], edges[-1] = mask[0], mask[-1]
    np.not_equal(mask[1:], mask[:-1], out=edges[1:-1])
    row, column = np.divmod(np.flatnonzero(edges), mask.shape[1])
    changes: NDArray[np.int64] = (column + corner[1]) * height + row + corner[0]
    changes.sort()
    return changes


def rle_to_mask(rle: Rle) -> NDArray[np.bool_]:
    """(H, W) bool. Raises DataError where the counts do not fill the picture."""
    height, width = rle["size"]
    counts = np.asarray(rle["counts"], np.int64)
    if counts.ndim != 1 or (counts < 0).any() or counts.sum() != height * width:
        raise DataError(
            f"run lengths cover {counts.sum()} pixels, expected {height} x {width} = {height * width} in counts of 0 "
            "or more. The annotation is damaged."
        )
    values = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, counts).reshape(width, height).T)


def rle_area(rle: Rle) -> int:
    """Mask pixels."""
    return sum(rle["counts"][1::2])


def rle_to_coco(rle: Rle) -> CocoRle:
    """Compressed counts."""
    height, width = rle["size"]
    compressed: dict[str, Any] = coco.frPyObjects(rle, height, width)
    return {"size": [height, width], "counts": compressed["counts"].decode("ascii")}


def coco_to_mask(rle: CocoRle) -> NDArray[np.bool_]:
    """(H, W) bool. Raises DataError where the counts do not fill the picture."""
    return rle_to_mask(coco_to_rle(rle))


def coco_to_rle(rle: CocoRle) -> Rle:
    """Uncompressed counts of a compressed string.

    Read here and not by pycocotools, which trusts the string with its memory; format as in COCO's maskApi.c,
    rleFrString: groups of 5 bits, low first, bit 6 for more, offset 48; from the fourth count on, the difference to
    the count two before.
    """
    height, width = rle["size"]
    counts: list[int] = []
    value = shift = 0
    for code in rle["counts"].encode("ascii", "replace"):
        group = code - 48
        if not 0 <= group < 64 or shift > 60:
            raise DataError(
                f"COCO run lengths hold {chr(code)!r}, expected characters '0' to 'o'. The file is damaged."
            )
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:  # the sign bit of the last group
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return {"size": [height, width], "counts": counts}
