"""Losses of Segment Anything (arXiv 2304.02643, appendix A): focal and dice 20 to 1, squared error for predicted IoU.

Masks are judged on the grid of the target. One that is finer than the logits' own judges them as they are used,
enlarged bilinearly: logits that repeat the share of each cell that an object covers give a small object (below 32 px at
640 px) an IoU of 0.86 at most, the best logits of the same size 0.97 (docs/ablations.md). On a grid coarser than the
photo targets are soft; the focal loss generalises to them as in Generalized Focal Loss (Li et al., arXiv 2006.04388,
equation 3). Two more losses can be added, see `LossWeights`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LossWeights", "Losses", "enlarged", "mask_iou", "mask_losses", "prompt_losses", "surroundings"]


@dataclass(frozen=True)
class Losses:
    """Means over the prompts of a batch; `iou` (B,) is the single mask's true IoU, for the log."""

    total: Tensor
    single: Tensor
    best: Tensor
    iou_error: Tensor
    iou: Tensor


@dataclass(frozen=True)
class LossWeights:
    """Beside dice, which has weight 1.

    `near` is the cross-entropy over the object's surroundings alone. The focal loss is a mean over the whole map, where
    an object of 20 px leaves next to no trace; this one weighs the outline of every object alike, as Mask R-CNN's does
    within its box (He et al., arXiv 1703.06870, section 3).

    `jaccard` is 1 - IoU with soft masks (Jaccard metric loss, Wang et al., arXiv 2302.05666): what is measured in the
    end. The others are least where a logit is the pixel's own probability, and a mask cut there is not the one of the
    best expected IoU.
    """

    focal: float = 20.0
    near: float = 0.0
    jaccard: float = 0.0


def enlarged(low_res_masks: Tensor, target: Tensor) -> Tensor:
    """Logits (B, M, h, w) -> (B, M, H, W), the size of `target`, as masks are enlarged when they are used."""
    if low_res_masks.shape[2:] == target.shape[2:]:
        return low_res_masks
    return F.interpolate(low_res_masks, target.shape[2:], mode="bilinear", align_corners=False)


def mask_losses(logits: Tensor, target: Tensor, weights: LossWeights) -> Tensor:
    """logits (B, M, h, w), target (B, 1, H, W) in 0..1, as large or a whole number larger -> weighted sum, (B, M)."""
    finer = target.shape[-1] // logits.shape[-1]
    logits = enlarged(logits, target)
    probability = torch.sigmoid(logits)
    target = target.expand_as(logits)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = ((probability - target).square() * cross_entropy).mean((2, 3))
    overlap = (probability * target).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (probability.square().sum((2, 3)) + target.square().sum((2, 3)) + 1)
    losses = weights.focal * focal + dice
    if weights.near:
        near = surroundings(target[:, :1], least=2 * finer)
        losses = losses + weights.near * (cross_entropy * near).sum((2, 3)) / near.sum((2, 3)).clamp(min=1)
    if weights.jaccard:
        shared = torch.minimum(probability, target).sum((2, 3))
        union = probability.sum((2, 3)) + target.sum((2, 3)) - shared  # the sum of the larger of the two
        losses = losses + weights.jaccard * (1 - (shared + 1) / (union + 1))
    return losses


def surroundings(target: Tensor, margin: float = 0.2, least: int = 2) -> Tensor:
    """target (B, 1, h, w) -> 1 within the object's box, widened on each side by `margin` of it and `least` cells."""
    covered = target > 0
    near = torch.ones_like(target)
    for axis, other in ((2, 3), (3, 2)):
        lines = covered.any(other, keepdim=True)
        places = torch.arange(target.shape[axis], device=target.device, dtype=target.dtype)
        places = places.view(-1, 1) if axis == 2 else places
        far = float(target.shape[axis])
        first = torch.where(lines, places, far).amin(axis, keepdim=True)
        last = torch.where(lines, places, -far).amax(axis, keepdim=True)
        spare = (last - first + 1) * margin + least
        near = near * ((places >= first - spare) & (places <= last + spare))
    return near


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """True IoU of the masks, (B, M, h, w) against (B, 1, h, w) -> (B, M); two empty masks agree (1)."""
    predicted, truth = logits > 0, target > 0.5
    union = (predicted | truth).sum((2, 3))
    overlap = (predicted & truth).sum((2, 3))
    return torch.where(union > 0, overlap / union.clamp(min=1), torch.ones_like(overlap, dtype=torch.float32))


def prompt_losses(
    low_res_masks: Tensor,
    iou_predictions: Tensor,
    target: Tensor,
    first: bool,
    weights: LossWeights = LossWeights(),
) -> Losses:
    """One round of prompts: (B, 4, h, w), (B, 4), target (B, 1, H, W) on a grid as fine or finer by a whole factor.

    The single mask (0) answers every prompt. Of the three alternatives only the best is taught, and only on a first
    prompt: later ones are not ambiguous.
    """
    low_res_masks, iou_predictions = low_res_masks.float(), iou_predictions.float()
    taught = low_res_masks[:, :1]
    if first:
        taught = torch.cat([taught, _best(low_res_masks[:, 1:], target, weights)], dim=1)
    losses = mask_losses(taught, target, weights)
    single = losses[:, 0].mean()
    best = losses[:, 1].mean() if first else torch.zeros_like(single)
    judged = low_res_masks if first else low_res_masks[:, :1]
    with torch.no_grad():
        true_iou = mask_iou(enlarged(judged, target), target)
    iou_error = (iou_predictions[:, : judged.shape[1]] - true_iou).square().mean()
    return Losses(single + best + iou_error, single, best, iou_error, true_iou[:, 0])


def _best(alternatives: Tensor, target: Tensor, weights: LossWeights) -> Tensor:
    """(B, 3, h, w) -> the one with the least loss, (B, 1, h, w). Judged on its own grid, in a fraction of the time."""
    with torch.no_grad():
        height, width = alternatives.shape[2:]
        coarse = F.adaptive_avg_pool2d(target, (height, width))
        best = mask_losses(alternatives, coarse, weights).argmin(1)
    return alternatives[torch.arange(len(best), device=best.device), best].unsqueeze(1)
