"""Input images, masks and prompts of the golden vectors, all made by integer arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# (height, width) of the two images.
IMAGE_SIZES: dict[str, tuple[int, int]] = {"wide": (480, 640), "tall": (640, 360)}


def image(name: str) -> NDArray[np.uint8]:
    """Return the named RGB image, height x width x 3: discs and boxes on a gradient, with noise."""
    height, width = IMAGE_SIZES[name]
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    out = np.stack([(x * 200) // width, (y * 180) // height, ((x + y) * 120) // (height + width)], axis=-1) + 20
    discs = (
        (28, 30, 14, (230, 60, 40)),
        (70, 35, 18, (40, 200, 90)),
        (45, 75, 16, (60, 80, 235)),
        (82, 80, 9, (240, 230, 60)),
        (12, 85, 7, (250, 250, 250)),
    )
    short = min(height, width)
    for cx, cy, radius, colour in discs:  # centres in percent of the sides, radii of the short side
        inside = (100 * x - cx * width) ** 2 + (100 * y - cy * height) ** 2 < (radius * short) ** 2
        out[inside] = colour
    boxes = (
        (5, 5, 16, 22, (20, 20, 20)),
        (52, 52, 66, 62, (200, 120, 200)),
        (88, 8, 97, 60, (10, 150, 160)),
    )
    for x0, y0, x1, y1, colour in boxes:
        inside = (100 * x >= x0 * width) & (100 * x < x1 * width) & (100 * y >= y0 * height) & (100 * y < y1 * height)
        out[inside] = colour
    channel = np.arange(3, dtype=np.int64)
    grain = ((x[..., None] * 7919 + y[..., None] * 104729 + channel * 31337) % 8191) * 17 % 23 - 11
    result: NDArray[np.uint8] = np.clip(out + grain, 0, 255).astype(np.uint8)
    return result


def mask_logits(size: int) -> NDArray[np.float32]:
    """Return a 1 x size x size mask prompt: an ellipse, multiples of 1/16 in [-8, 8]."""
    y, x = np.mgrid[0:size, 0:size].astype(np.int64)
    distance = 4 * (100 * x - 45 * size) ** 2 + 9 * (100 * y - 55 * size) ** 2
    level = 128 - distance * 128 // (60 * size) ** 2
    result: NDArray[np.float32] = (np.clip(level, -128, 128) / 16.0).astype(np.float32)[None]
    return result


def prompts(name: str) -> dict[str, dict[str, Any]]:
    """Return the prompt sets for an image, in its pixels: keywords of a single prediction.

    ``mask_input`` is True where the mask prompt is ``mask_logits(side)``, ``side`` being the
    side of the low-resolution masks.
    """
    height, width = IMAGE_SIZES[name]

    def at(*fractions: tuple[int, int]) -> list[list[float]]:
        return [[fx * width / 100, fy * height / 100] for fx, fy in fractions]

    box = [0.5 * width, 0.125 * height, 0.875 * width, 0.625 * height]
    return {
        "point": {"point_coords": at((28, 30)), "point_labels": [1]},
        "points": {
            "point_coords": at((70, 35), (60, 70), (45, 75), (12, 85)),
            "point_labels": [1, 0, 1, 0],
        },
        "box": {"box": box},
        "box_points": {"point_coords": at((70, 35), (85, 55)), "point_labels": [1, 0], "box": box},
        "mask_point": {"point_coords": at((45, 55)), "point_labels": [1], "mask_input": True},
        "padded": {"point_coords": [*at((45, 75)), [0.0, 0.0]], "point_labels": [1, -1]},
        "box_mask": {"box": box, "mask_input": True},
        "mask": {"mask_input": True},
        "nothing": {},
    }


def batch_boxes(name: str) -> NDArray[np.float64]:
    """Return four boxes (x0, y0, x1, y1) in pixels of the image, one of them beyond its border."""
    height, width = IMAGE_SIZES[name]
    parts = np.array([[14, 16, 42, 44], [52, 17, 88, 53], [-3, 60, 40, 104], [75, 70, 90, 90]], dtype=np.float64)
    return parts * np.array([width, height, width, height], dtype=np.float64) / 100


def batch_points(name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return points (4 x 2 x 2, in pixels) and labels (4 x 2), one label being padding."""
    height, width = IMAGE_SIZES[name]
    parts = np.array([[[28, 30], [50, 50]], [[70, 35], [85, 60]], [[45, 75], [0, 0]], [[99, 99], [1, 1]]])
    labels = np.array([[1, 0], [1, 1], [1, -1], [1, 0]], dtype=np.int64)
    return parts * np.array([width, height], dtype=np.float64) / 100, labels
