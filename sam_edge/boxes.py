"""Boxes in pixels: of masks, between crops, and against each other. Inclusive indices: width is x1 - x0."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["box_xyxy_to_xywh", "is_near_crop_edge", "mask_to_box", "non_maximum_suppression"]

Number = TypeVar("Number", bound=np.number[Any])

EDGE_TOLERANCE_PX = 20  # segment-anything's: a box this near to a crop's edge may be cut off by it


def mask_to_box(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(..., H, W) bool to (..., 4) xyxy of the outermost mask pixels, both inclusive; zeros for an empty mask."""
    if 0 in masks.shape[-2:]:  # an empty window
        return np.zeros((*masks.shape[:-2], 4), np.int64)
    columns = np.asarray(masks.any(axis=-2))
    rows = np.asarray(masks.any(axis=-1))
    x0, y0 = columns.argmax(axis=-1), rows.argmax(axis=-1)
    x1 = columns.shape[-1] - 1 - columns[..., ::-1].argmax(axis=-1)
    y1 = rows.shape[-1] - 1 - rows[..., ::-1].argmax(axis=-1)
    boxes = np.stack([x0, y0, x1, y1], axis=-1).astype(np.int64)
    return boxes * columns.any(axis=-1, keepdims=True)


def box_xyxy_to_xywh(boxes: NDArray[Number]) -> NDArray[Number]:
    """(..., 4) xyxy to (..., 4) x, y, width, height."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def is_near_crop_edge(boxes: NDArray[np.int64], crop_box: ArrayLike, image_box: ArrayLike) -> NDArray[np.bool_]:
    """Which of `boxes` (n, 4), in pixels of the crop, come near an edge of the crop that is no edge of the photo."""
    crop, image = np.asarray(crop_box), np.asarray(image_box)
    in_image = boxes + np.tile(crop[:2], 2)
    near_crop = np.abs(in_image - crop) <= EDGE_TOLERANCE_PX
    near_image = np.abs(in_image - image) <= EDGE_TOLERANCE_PX
    return np.asarray((near_crop & ~near_image).any(axis=-1))


def non_maximum_suppression(boxes: ArrayLike, scores: ArrayLike, iou_threshold: float) -> NDArray[np.int64]:
    """Indices of the boxes (n, 4) xyxy to keep, best score (n,) first, equal scores in their order.

    A box goes where its IoU with a kept one is strictly above the threshold. In float32 as torchvision's nms, so that
    ties at the threshold fall alike. One row of overlaps at a time: n boxes never need n x n memory.
    """
    corners = np.asarray(boxes, np.float32).reshape(-1, 4)
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    waiting = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    threshold = np.float64(iou_threshold)  # compared in float64: an IoU of 3/10 is above 0.3 in float32, and goes
    kept: list[int] = []
    while waiting.size:
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        sides = np.minimum(corners[best, 2:], corners[waiting, 2:]) - np.maximum(
            corners[best, :2], corners[waiting, :2]
        )
        overlap = np.prod(np.maximum(sides, 0), axis=1)
        with np.errstate(invalid="ignore"):  # 0/0 of two boxes without area: not above any threshold
            iou = overlap / (areas[best] + areas[waiting] - overlap)
        waiting = waiting[~(iou > threshold)]
    return np.array(kept, np.int64)
