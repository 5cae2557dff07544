"""Figures of merit of a mask and of a set of masks: IoU, boundary IoU, bootstrap intervals, correlations.

NumPy and OpenCV only. Every function is pure; the evaluation protocol (section 1) says which are reported.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BOUNDARY_SHARE",
    "SIZES",
    "boundary_iou",
    "mask_iou",
    "mean_interval",
    "pearson",
    "size_class",
    "span",
    "spearman",
]

SIZES = ("small", "medium", "large")
SMALL_BELOW_PX = 32**2  # COCO's limits on a photo whose longest side is COCO_SIDE_PX
MEDIUM_BELOW_PX = 96**2
COCO_SIDE_PX = 640
BOUNDARY_SHARE = 0.02  # of the photo's diagonal (Cheng et al., Boundary IoU, 2021, section 4)
RESAMPLES = 1000
BOOTSTRAP_SEED = 0

Mask = NDArray[np.bool_]


def mask_iou(first: Mask, second: Mask) -> float:
    """Intersection over union of two (H, W) bool masks; 1 for two empty ones."""
    inter = int(np.count_nonzero(first & second))
    union = int(np.count_nonzero(first)) + int(np.count_nonzero(second)) - inter
    return inter / union if union else 1.0


def boundary_iou(first: Mask, second: Mask, share: float = BOUNDARY_SHARE) -> float:
    """IoU of the masks' inner bands of `share` of the photo's diagonal; 1 for two empty masks.

    Masks (H, W) bool. A band's width is rounded to whole pixels, at least one; there is no mask beyond the photo.
    """
    rows, cols = span(first | second)
    height, width = first.shape
    band_px = max(1, round(share * float(np.hypot(height, width))))
    return mask_iou(_inner_band(first[rows, cols], band_px), _inner_band(second[rows, cols], band_px))


def span(mask: Mask) -> tuple[slice, slice]:
    """Rows and columns of the tight box of a (H, W) bool mask; empty slices for an empty one."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


def _inner_band(mask: Mask, band_px: int) -> Mask:
    if not mask.size:
        return mask
    square = np.ones((2 * band_px + 1, 2 * band_px + 1), np.uint8)  # band_px erosions by 3 x 3 in one
    inside = cv2.erode(mask.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    band: Mask = mask & (inside == 0)
    return band


def size_class(area_px: int, size: tuple[int, int]) -> str:
    """'small', 'medium' or 'large' by COCO's areas, scaled from 640 px to the stored photo's (height, width)."""
    scale = (max(size) / COCO_SIDE_PX) ** 2
    if area_px < SMALL_BELOW_PX * scale:
        return "small"
    return "medium" if area_px < MEDIUM_BELOW_PX * scale else "large"


def mean_interval(values: ArrayLike, photos: ArrayLike) -> tuple[float, float]:
    """95 % bootstrap interval (percentiles) of the mean of `values` (n,), resampling whole photos.

    photos (n,) names the photo of each value: objects of one photo are not independent. Same values, same interval.
    """
    _, index = np.unique(np.asarray(photos), return_inverse=True)
    sums = np.bincount(index, np.asarray(values, np.float64))
    counts = np.bincount(index)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        drawn = rng.integers(len(sums), size=len(sums))
        means[i] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def pearson(first: ArrayLike, second: ArrayLike) -> float | None:
    """Linear correlation of two (n,) series; None where one of them is constant."""
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def spearman(first: ArrayLike, second: ArrayLike) -> float | None:
    """Rank correlation of two (n,) series, ties at their mean rank; None where one of them is constant."""
    return pearson(_mean_ranks(first), _mean_ranks(second))


def _mean_ranks(values: ArrayLike) -> NDArray[np.float64]:
    _, index, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(np.float64)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[index]
    return ranks
