"""Run lengths of masks, column by column as COCO counts them: {"size": [H, W], "counts": [background, mask, ...]}.

Uncompressed counts are a list of ints; COCO's compressed counts are an ASCII string. Both come from files of anybody,
and pycocotools trusts them with its memory: `run_lengths` reads and checks them.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from sam_edge.errors import DataError
from sam_edge.image import Size

__all__ = [
    "CocoRle",
    "Rle",
    "coco_to_mask",
    "coco_to_rle",
    "counts_to_mask",
    "mask_to_rle",
    "rle_area",
    "rle_to_coco",
    "rle_to_mask",
    "run_lengths",
]

CHARACTERS_A_COUNT = 7  # 35 bits; 6 hold those of MAX_PIXELS, and sums of a file's counts stay within 64 bits


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


def run_lengths(counts: str | list[int], size: Size) -> NDArray[np.int64]:
    """The checked runs (background, mask, background ...) of counts that anybody may have written, of either kind.

    Raises DataError unless they are whole numbers of 0 or more that fill a picture of `size` (H, W).
    """
    runs = _of_string(counts) if isinstance(counts, str) else _of_list(counts)
    height, width = size
    pixels = height * width
    if runs.min(initial=0) < 0 or runs.max(initial=0) > pixels or runs.sum() != pixels:
        raise DataError(
            f"run lengths do not fill the picture: they cover {sum(runs.tolist())} pixels, expected {height} x {width} "
            f"= {pixels} in counts of 0 or more. The annotation is damaged."
        )
    return runs


def _of_list(counts: Any) -> NDArray[np.int64]:
    """Raises DataError for what is no list of whole numbers; numpy makes floats or objects of the largest ones."""
    try:
        runs = np.asarray(counts)
    except ValueError:  # lists of unequal lists
        runs = np.empty((0, 0))
    if runs.ndim != 1 or (runs.size and (runs.dtype.kind not in "iu" or runs.max() > np.iinfo(np.int64).max)):
        raise DataError(
            f"run lengths are {counts!r:.60}, expected a list of whole numbers below 2**63 or COCO's string. The "
            "annotation is damaged."
        )
    return runs.astype(np.int64)


def _of_string(counts: str) -> NDArray[np.int64]:
    """Raises DataError for what is no string of counts.

    Format as in COCO's maskApi.c, rleFrString: groups of 5 bits, low first, bit 6 for more, offset 48; from the fourth
    count on, the difference to the count two before.
    """
    groups = np.frombuffer(counts.encode("utf-8", "surrogatepass"), np.uint8) - np.uint8(48)  # others wrap to 64 on
    if groups.max(initial=0) > 63 or (groups.size and groups[-1] & 32):
        raise DataError(
            f"COCO run lengths are {counts!r:.60}, expected characters '0' to 'o' and a last count that ends. The file "
            "is damaged."
        )
    ends = np.flatnonzero(groups < 32)
    lengths = np.diff(ends, prepend=-1)
    if lengths.max(initial=0) > CHARACTERS_A_COUNT:
        raise DataError(
            f"COCO run lengths hold a count of {lengths.max()} characters, expected at most {CHARACTERS_A_COUNT}. The "
            "file is damaged."
        )
    starts = ends + 1 - lengths
    place = np.arange(groups.size) - np.repeat(starts, lengths)
    runs: NDArray[np.int64] = np.add.reduceat((groups & 31).astype(np.int64) << (5 * place), starts)
    runs -= (groups[ends] & 16).astype(np.int64) << (5 * lengths - 4)  # the sign bit of the last group
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def counts_to_mask(counts: str | list[int], size: Size) -> NDArray[np.bool_]:
    """(H, W) bool of counts of either kind. Raises DataError where they do not fill the picture."""
    height, width = size
    runs = run_lengths(counts, size)
    values = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def rle_to_mask(rle: Rle) -> NDArray[np.bool_]:
    """(H, W) bool. Raises DataError where the counts do not fill the picture."""
    height, width = rle["size"]
    return counts_to_mask(rle["counts"], (height, width))


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
    height, width = rle["size"]
    return counts_to_mask(rle["counts"], (height, width))


def coco_to_rle(rle: CocoRle) -> Rle:
    """Uncompressed counts of a compressed string. Raises DataError where the counts do not fill the picture."""
    height, width = rle["size"]
    return {"size": [height, width], "counts": run_lengths(rle["counts"], (height, width)).tolist()}
