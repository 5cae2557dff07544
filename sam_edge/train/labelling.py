"""The data engine: masks for objects that nobody drew, by the best ensemble of looks that a CPU affords.

Segment Anything's authors let the model label what people had not (arXiv 2304.02643, section 4). Here one model looks
four times: at the photo and at a crop around the object, each also mirrored; the mean of the four logits is a better
mask than any of them, and how far they agree says whether to believe it. Objects come from boxes that somebody drew
(detection data is plentiful, masks are not) or from everything mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as coco_mask

from sam_edge.boxes import box_xyxy_to_xywh
from sam_edge.contract import Float32, Runtime
from sam_edge.evaluate.metrics import mask_iou
from sam_edge.evaluate.simulate import tight_box
from sam_edge.everything import SamAutomaticMaskGenerator
from sam_edge.image import Photo
from sam_edge.predictor import SamPredictor
from sam_edge.rle import coco_to_mask, mask_to_rle, rle_area, rle_to_coco
from sam_edge.second_look import LookConfig, crop_around

__all__ = ["Label", "LabelConfig", "Labeller"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelConfig:
    """What is believed. The values gave the best masks on held-out training photos (docs/training.md).

    `mask_threshold`: of the mean logits; a little below 0, as the looks' disagreement shrinks the mean at the outline.
    `min_agreement`: mean IoU of the looks with their mean. `min_box_fit`: IoU of the mask's box with the given one.
    `max_known_iou`: everything mode's masks that overlap an annotated object more are that object.
    """

    mask_threshold: float = -0.4
    min_agreement: float = 0.72
    min_box_fit: float = 0.6
    min_area_px: int = 60
    max_known_iou: float = 0.5
    everything_min_agreement: float = 0.85
    points_per_side: int = 16
    look: LookConfig = LookConfig()


@dataclass(frozen=True)
class Label:
    """A mask (H, W) bool, where it came from ("box", "everything"), and the mean IoU of the looks with it."""

    mask: Mask
    origin: str
    agreement: float

    def annotation(self, number: int, image_id: int) -> dict[str, Any]:
        """The label in SA-1B's format."""
        rle = mask_to_rle(self.mask)
        left, top, right, bottom = (int(edge) for edge in tight_box(self.mask))
        return {
            "id": number,
            "image_id": image_id,
            "segmentation": rle_to_coco(rle),
            "area": rle_area(rle),
            "bbox": [left, top, right - left, bottom - top],
            "origin": self.origin,
            "agreement": round(self.agreement, 4),
        }


class Labeller:
    """Labels photos with one runtime; a photo costs two encodes, an object up to two more and four decodes."""

    def __init__(self, runtime: Runtime, config: LabelConfig = LabelConfig()) -> None:
        self.runtime, self.config = runtime, config
        self.generator = SamAutomaticMaskGenerator(
            runtime,
            points_per_side=config.points_per_side,
            pred_iou_thresh=runtime.spec.pred_iou_thresh,
            stability_score_thresh=runtime.spec.stability_score_thresh,
            output_mode="coco_rle",
        )

    def from_boxes(self, photo: Photo, boxes: Sequence[ArrayLike]) -> list[Label]:
        """The believable masks of boxes (4,) xyxy in pixels; a box that gives none has no label."""
        looks = _Looks(self.runtime, photo, self.config.look)
        labels = []
        for box in boxes:
            mask, agreement = self._agreed(looks, np.asarray(box, np.float64))
            fits = mask.any() and _box_iou(tight_box(mask), box) >= self.config.min_box_fit
            if fits and agreement >= self.config.min_agreement and mask.sum() >= self.config.min_area_px:
                labels.append(Label(mask, "box", agreement))
        return labels

    def from_everything(self, photo: Photo, known: Sequence[Mask]) -> list[Label]:
        """Objects that everything mode finds beside the `known` masks (H, W), confirmed by further looks."""
        looks = _Looks(self.runtime, photo, self.config.look)
        taken, labels = list(known), []
        for found in self.generator.generate(photo):  # the most certain first
            first = coco_to_mask(found["segmentation"])
            mask, agreement = self._agreed(looks, tight_box(first))
            agreement = min(agreement, mask_iou(first, mask))  # one click and one box must mean the same object
            if agreement < self.config.everything_min_agreement or mask.sum() < self.config.min_area_px:
                continue
            if all(mask_iou(mask, other) <= self.config.max_known_iou for other in taken):
                taken.append(mask)
                labels.append(Label(mask, "everything", agreement))
        return labels

    def _agreed(self, looks: _Looks, box: NDArray[np.float64]) -> tuple[Mask, float]:
        """The mask of the mean of all looks at a box, inside the box; the mean IoU of the looks with it."""
        seen = list(looks.at(box))
        mean = np.average([logits for _, logits in seen], axis=0, weights=[weight for weight, _ in seen])
        inside = np.zeros(mean.shape, bool)
        left, top = np.maximum(np.floor(box[:2]).astype(int) - 1, 0)
        right, bottom = np.ceil(box[2:]).astype(int) + 1
        inside[top:bottom, left:right] = True
        mask = (mean > self.config.mask_threshold) & inside
        agreement = [mask_iou((logits > self.config.mask_threshold) & inside, mask) for _, logits in seen]
        return mask, float(np.mean(agreement))


class _Looks:
    """The photo and its mirror image, encoded once."""

    def __init__(self, runtime: Runtime, photo: Photo, config: LookConfig) -> None:
        self.runtime, self.photo, self.config = runtime, photo, config
        self.whole = [self._encoded(photo, mirrored) for mirrored in (False, True)]

    def at(self, box: NDArray[np.float64]) -> Iterator[tuple[float, Float32]]:
        """(weight, logits (H, W)) of each look at the box; outside a crop is outside the object."""
        for mirrored, predictor in zip((False, True), self.whole, strict=True):
            yield 1.0, _logits(predictor, box, self.photo.shape[1], mirrored)
        crop = crop_around(box, (self.photo.shape[0], self.photo.shape[1]), self.config)
        if crop is None:
            return
        left, top, right, bottom = crop
        part = np.ascontiguousarray(self.photo[top:bottom, left:right])
        for mirrored in (False, True):
            logits = np.full(self.photo.shape[:2], -8.0, np.float32)
            predictor = self._encoded(part, mirrored)
            logits[top:bottom, left:right] = _logits(predictor, box - [left, top, left, top], right - left, mirrored)
            yield self.config.weight, logits

    def _encoded(self, photo: Photo, mirrored: bool) -> SamPredictor:
        predictor = SamPredictor(self.runtime)
        predictor.set_image(np.ascontiguousarray(photo[:, ::-1]) if mirrored else photo)
        return predictor


def _logits(predictor: SamPredictor, box: NDArray[np.float64], width: int, mirrored: bool) -> Float32:
    """The single mask's logits for a box of the photo as it lies, whichever way the predictor saw it."""
    if mirrored:
        box = np.array([width - box[2], box[1], width - box[0], box[3]])
    logits, _, _ = predictor.predict(box=box, multimask_output=False, return_logits=True)
    return np.asarray(logits[0, :, ::-1] if mirrored else logits[0], np.float32)


def _box_iou(first: ArrayLike, second: ArrayLike) -> float:
    one, other = (box_xyxy_to_xywh(np.array([box], np.float64)) for box in (first, second))
    return float(coco_mask.iou(one, other, [False])[0, 0])
