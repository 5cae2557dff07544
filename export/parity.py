"""Do two runtimes draw the same masks? Each goes its own whole way from the photo to the mask at the photo's size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_edge.boxes import mask_to_box
from sam_edge.contract import Runtime
from sam_edge.image import Photo
from sam_edge.predictor import SamPredictor

__all__ = ["mask_ious"]

CLICKS_PER_SIDE = 5
MIN_AREA = 100  # px; smaller masks of the reference give no box prompt, as in the evaluation protocol


def mask_ious(reference: Runtime, exported: Runtime, photos: Iterable[Photo]) -> dict[str, list[float]]:
    """Prompt kind ("click", "box") -> mask IoU of the two for each prompt; two empty masks have IoU 1.

    Clicks stand on a grid; boxes are those around the masks that the reference draws for the clicks.
    """
    ious: dict[str, list[float]] = {"click": [], "box": []}
    ours, theirs = SamPredictor(exported), SamPredictor(reference)
    for photo in photos:
        ours.set_image(photo)
        theirs.set_image(photo)
        for click in _grid(photo):
            prompt: dict[str, Any] = {"point_coords": click[None], "point_labels": np.ones(1)}
            expected = _mask(theirs, prompt)
            ious["click"].append(_iou(_mask(ours, prompt), expected))
            if expected.sum() >= MIN_AREA:
                prompt = {"box": mask_to_box(expected[None])[0]}
                ious["box"].append(_iou(_mask(ours, prompt), _mask(theirs, prompt)))
    return ious


def _grid(photo: Photo) -> NDArray[np.float64]:
    height, width = photo.shape[:2]
    at = (np.arange(CLICKS_PER_SIDE) + 0.5) / CLICKS_PER_SIDE
    return np.stack(np.meshgrid(at * width, at * height), axis=-1).reshape(-1, 2)


def _mask(predictor: SamPredictor, prompt: dict[str, Any]) -> NDArray[np.bool_]:
    masks, _, _ = predictor.predict(**prompt, multimask_output=False)
    return np.asarray(masks[0], dtype=bool)


def _iou(got: NDArray[np.bool_], expected: NDArray[np.bool_]) -> float:
    either = int((got | expected).sum())
    return int((got & expected).sum()) / either if either else 1.0
