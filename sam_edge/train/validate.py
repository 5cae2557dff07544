"""Held-out mIoU while training: tight boxes and centre clicks, the single mask, at the model's own size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam_edge.evaluate.dataset import Record
from sam_edge.model.sam import Sam
from sam_edge.train.data import AugmentConfig, Batch, PromptableDataset, collate
from sam_edge.train.losses import mask_iou
from sam_edge.train.prompting import PromptMix
from sam_edge.train.step import normalise

__all__ = ["validate"]

OBJECTS_PER_PHOTO = 6
NO_AUGMENT = AugmentConfig(whole_photo_share=1.0, flip_share=0.0, max_colour_gain=0.0, grey_share=0.0)
KINDS = {
    "box": PromptMix(box=1, box_jitter=0, click=0, clicks=0, box_click=0, mask_click=0),
    "click": PromptMix(box=0, box_jitter=0, click=1, clicks=0, box_click=0, mask_click=0, centre_clicks=1.0),
}


@torch.inference_mode()
def validate(model: Sam, records: Sequence[Record], image_size: int) -> dict[str, float]:
    """Mean IoU over at most six objects of each photo, and the correlation of predicted with true IoU."""
    datasets = {
        kind: PromptableDataset(records, {}, image_size, OBJECTS_PER_PHOTO, NO_AUGMENT, mix, seed=0)
        for kind, mix in KINDS.items()
    }
    pairs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}  # predicted and true IoU
    for number, record in enumerate(records):
        objects = record.objects()
        if not objects:
            continue
        keep = min(OBJECTS_PER_PHOTO, len(objects))
        features = None
        for kind, dataset in datasets.items():  # the same photo and objects, prompted differently
            batch = collate([dataset.sample(record, objects, np.random.default_rng(number))]).to(model.device)
            if features is None:
                features = model.encode(normalise(batch.images, batch.padding, model))
            pairs[kind] += _judged(model, features, batch, keep)
    figures = {f"held_out_{kind}_miou": float(np.mean([true for _, true in each])) for kind, each in pairs.items()}
    both = np.concatenate([np.array(each) for each in pairs.values()])
    figures["held_out_iou_correlation"] = float(np.corrcoef(both.T)[0, 1])
    return figures


def _judged(model: Sam, features: tuple[Tensor, ...], batch: Batch, keep: int) -> list[tuple[float, float]]:
    """Predicted and true IoU of the single mask of the first `keep` prompts."""
    masks, predicted = model.decode(
        features, batch.point_coords, batch.point_labels, batch.mask_input, batch.has_mask_input
    )
    full = F.interpolate(masks[:keep, :1], scale_factor=4.0, mode="bilinear", align_corners=False)
    true = mask_iou(full, batch.masks[:keep].unsqueeze(1).float())[:, 0]
    return list(zip(predicted[:keep, 0].tolist(), true.tolist(), strict=True))
