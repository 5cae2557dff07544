"""Where everything mode looks: grids of points, and layers of overlapping crops (SAM paper, appendix B)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sam_edge.image import Size

__all__ = ["crop_boxes", "point_grid", "point_grids"]


def point_grid(points_per_side: int) -> NDArray[np.float64]:
    """(n * n, 2) x, y in 0..1, evenly spaced, row by row."""
    margin = 1 / (2 * points_per_side)
    side = np.linspace(margin, 1 - margin, points_per_side)
    x, y = np.meshgrid(side, side)
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def point_grids(points_per_side: int, n_layers: int, downscale_factor: int) -> list[NDArray[np.float64]]:
    """A grid for the photo and one for each layer of crops, each `downscale_factor` times sparser than the last."""
    return [point_grid(int(points_per_side / downscale_factor**layer)) for layer in range(n_layers + 1)]


def crop_boxes(original_size: Size, n_layers: int, overlap_ratio: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Boxes (n, 4) xyxy, exclusive ends, and their layers (n,): the photo (layer 0), then 4, 16, ... crops.

    Layer i has 2**i crops a side, column by column, overlapping by the ratio of the short side times 2 / crops a side.
    A crop can be empty in a photo of a few pixels.
    """
    height, width = original_size
    boxes, layers = [(0, 0, width, height)], [0]
    for layer in range(1, n_layers + 1):
        crops_a_side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / crops_a_side))
        crop_width, crop_height = (
            math.ceil((overlap * (crops_a_side - 1) + side) / crops_a_side) for side in (width, height)
        )
        for column in range(crops_a_side):
            for row in range(crops_a_side):
                x0, y0 = (crop_width - overlap) * column, (crop_height - overlap) * row
                boxes.append((x0, y0, min(x0 + crop_width, width), min(y0 + crop_height, height)))
                layers.append(layer)
    return np.array(boxes, np.int64), np.array(layers, np.int64)
