"""A second look: once a mask is known, encode an enlarged crop around it and decode again.

A compact model sees a small object in a few cells of its embedding. Within a crop the same object fills many, at the
price of one more encode; the two looks are averaged where both saw. (Zooming in for small objects: e.g. Singh et al.,
arXiv 1711.08189; crops in everything mode: Kirillov et al., arXiv 2304.02643, appendix B.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sam_edge.boxes import mask_to_box
from sam_edge.contract import LABEL_FOREGROUND, MASK_THRESHOLD, Float32, Runtime
from sam_edge.image import Photo, Size
from sam_edge.predictor import SamPredictor

__all__ = ["LookConfig", "SecondLook", "crop_around"]


@dataclass(frozen=True)
class LookConfig:
    """`crop_scale`: the crop's side over the object's longer one. `max_zoom`: the smallest crop is the photo's longest
    side over this; training showed no closer ones. `min_zoom`: a crop that hardly enlarges is not worth an encode.
    `weight` of the second look's logits against the first's: of 1, 2 and the second alone the best on held-out
    training photos."""

    crop_scale: float = 2.2
    max_zoom: float = 2.6
    min_zoom: float = 1.2
    weight: float = 2.0


def crop_around(box: ArrayLike, size: Size, config: LookConfig = LookConfig()) -> tuple[int, int, int, int] | None:
    """The crop x0, y0, x1, y1 (ends exclusive) around a box xyxy of a photo of `size` (H, W); None: not worth it."""
    height, width = size
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    longest = max(height, width)
    side = max(config.crop_scale * max(x1 - x0, y1 - y0), longest / config.max_zoom)
    if side * config.min_zoom > longest:
        return None
    left, right = _span((x0 + x1) / 2, side, width)
    top, bottom = _span((y0 + y1) / 2, side, height)
    return left, top, right, bottom


def _span(centre: float, side: float, length: int) -> tuple[int, int]:
    """[start, end) of `side` around the centre, moved inside [0, length); all of it where it is shorter."""
    start = round(min(max(centre - side / 2, 0.0), max(length - side, 0.0)))
    return start, min(length, max(start + 1, round(start + side)))


class SecondLook:
    """Looks again at objects of one photo; its encodes leave the first look's embedding alone.

    >>> first, _, _ = predictor.predict(box=box, multimask_output=False, return_logits=True)
    >>> mask = SecondLook(runtime, photo).refine(first[0], box=box) > 0
    """

    def __init__(self, runtime: Runtime, photo: Photo, config: LookConfig = LookConfig()) -> None:
        self.photo, self.config = photo, config
        self.predictor = SamPredictor(runtime)
        self.timings_ms: dict[str, float] = {}

    def refine(
        self,
        first: Float32,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
    ) -> Float32:
        """Logits (H, W) float32 of both looks; `first` unchanged where nothing was found or a crop gains nothing.

        first: the single mask's logits (H, W) for the same prompts, which are in pixels of the photo: point_coords
        (N, 2), point_labels (N,), box (4,) xyxy. Without a box the crop lies around the first mask; the mask itself is
        no prompt of the second look, which gained less with it (docs/training.md). Raises PromptError.
        """
        mask = first > MASK_THRESHOLD
        if box is None and not mask.any():
            return first
        found = np.asarray(box, np.float64) if box is not None else np.add(mask_to_box(mask), (0, 0, 1, 1))
        crop = crop_around(found, (self.photo.shape[0], self.photo.shape[1]), self.config)
        if crop is None:
            return first
        left, top, right, bottom = crop
        coords, labels = self._inside(point_coords, point_labels, crop)
        if box is None and (labels is None or LABEL_FOREGROUND not in labels):  # the mask lies away from every click
            return first
        self.predictor.set_image(np.ascontiguousarray(self.photo[top:bottom, left:right]))
        second, _, _ = self.predictor.predict(
            coords,
            labels,
            None if box is None else found - [left, top, left, top],
            multimask_output=False,
            return_logits=True,
        )
        for stage, duration_ms in self.predictor.timings_ms.items():
            self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + duration_ms
        merged = first.copy()
        weight = self.config.weight
        merged[top:bottom, left:right] = (first[top:bottom, left:right] + weight * second[0]) / (1 + weight)
        return merged

    @staticmethod
    def _inside(
        point_coords: ArrayLike | None, point_labels: ArrayLike | None, crop: tuple[int, int, int, int]
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """The clicks that the crop shows, in its pixels."""
        if point_coords is None or point_labels is None:
            return None, None
        left, top, right, bottom = crop
        coords, labels = np.asarray(point_coords, np.float64), np.asarray(point_labels, np.float64)
        shown = (coords >= [left, top]).all(axis=1) & (coords < [right, bottom]).all(axis=1)
        if not shown.any():
            return None, None
        return coords[shown] - [left, top], labels[shown]
