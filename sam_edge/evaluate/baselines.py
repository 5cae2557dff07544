"""What costs nothing: masks drawn from a box or a click without any model (evaluation protocol, section 1).

A model that does not beat these has learned nothing of use. All return (H, W) bool.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_edge.evaluate.simulate import Click

__all__ = ["BASELINES", "click_disc", "ellipse_in_box", "filled_box", "grabcut"]

BASELINES = ("filled box", "ellipse in box", "GrabCut from box", "disc at click")
DISC_RADIUS_SHARE = 0.138  # of the longest side; chosen on the training data, as the protocol has it
GRABCUT_ITERATIONS = 3
GRABCUT_SIDE_PX = 256

Mask = NDArray[np.bool_]


def filled_box(box: NDArray[np.float64], size: tuple[int, int]) -> Mask:
    """All pixels whose centre lies in box (4,) xyxy, on a photo of size (height, width)."""
    y, x = _centres(size)
    inside: Mask = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
    return inside


def ellipse_in_box(box: NDArray[np.float64], size: tuple[int, int]) -> Mask:
    """All pixels whose centre lies in the ellipse that touches the four sides of box (4,) xyxy."""
    y, x = _centres(size)
    radius_x, radius_y = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    inside: Mask = ((x - (box[0] + radius_x)) / radius_x) ** 2 + ((y - (box[1] + radius_y)) / radius_y) ** 2 <= 1
    return inside


def click_disc(click: Click, size: tuple[int, int]) -> Mask:
    """The disc around the click whose radius is 0.138 of the photo's longest side."""
    y, x = _centres(size)
    radius_px = DISC_RADIUS_SHARE * max(size)
    inside: Mask = (x - click.x - 0.5) ** 2 + (y - click.y - 0.5) ** 2 <= radius_px**2
    return inside


def _centres(size: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.arange(0.5, size[0])[:, None], np.arange(0.5, size[1])[None]


def grabcut(image: NDArray[np.uint8], box: NDArray[np.float64]) -> Mask:
    """Rother et al.'s GrabCut (2004) on image (H, W, 3) RGB, seeded with box (4,) xyxy: all outside is background.

    Three iterations at a longest side of 256 px. The filled box is returned where it leaves no background to learn
    from, and where nothing is found: that happens to a third of COCO's objects, and an empty mask would be too low a
    bar (cocoval, 35 photos: mIoU 0.18 with empty masks, 0.57 so).
    """
    height, width = image.shape[:2]
    scale = min(1.0, GRABCUT_SIDE_PX / max(height, width))
    small_size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
    factors = np.array([small_size[0] / width, small_size[1] / height] * 2)
    x0, y0 = np.floor(box * factors + 0.5).astype(int)[:2].clip(0, np.array(small_size) - 1)
    x1, y1 = np.maximum(np.floor(box * factors + 0.5).astype(int)[2:], (x0 + 1, y0 + 1))
    labels = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    labels[y0:y1, x0:x1] = cv2.GC_PR_FGD
    if not np.any(labels == cv2.GC_BGD):
        return filled_box(box, (height, width))
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))  # OpenCV's shape of a mixture of 5 Gaussians
    cv2.setRNGSeed(0)  # its colour clusters start from a global random state
    unused_rect = (0, 0, 0, 0)
    cv2.grabCut(small, labels, unused_rect, background, foreground, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
    found = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    enlarged: Mask = cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5
    return enlarged if enlarged.any() else filled_box(box, (height, width))
