"""One training step's forward pass: encode a batch once, prompt it, correct it, and sum the losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_edge.contract import MASK_STRIDE
from sam_edge.model.sam import Sam
from sam_edge.train.data import Batch
from sam_edge.train.losses import Losses, LossWeights, prompt_losses
from sam_edge.train.prompting import correction_clicks

__all__ = ["TrainingStep", "draw_corrections", "normalise"]


def normalise(images: Tensor, inside: Tensor, model: Sam) -> Tensor:
    """uint8 (n, 3, S, S) -> float32, zero where there is no photo, as `image.preprocess` makes it."""
    mean = torch.tensor(model.spec.pixel_mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(model.spec.pixel_std, device=images.device).view(1, 3, 1, 1)
    return ((images.float() - mean) / std) * inside.unsqueeze(1)


class TrainingStep(nn.Module):
    """`forward(batch, corrections)` -> losses summed over the rounds; a module, so that DDP can wrap it."""

    def __init__(self, model: Sam, weights: LossWeights, loss_stride: int) -> None:
        super().__init__()
        self.model = model
        self.weights = weights
        self.loss_stride = loss_stride

    def forward(self, batch: Batch, corrections: int) -> tuple[Tensor, dict[str, Any]]:
        """Returns the loss and figures for the log (floats)."""
        per_photo = len(batch.masks) // len(batch.images)
        images = normalise(batch.images, batch.padding, self.model).contiguous(memory_format=torch.channels_last)
        index = torch.arange(len(batch.images), device=images.device).repeat_interleave(per_photo)
        features = tuple(f[index] for f in self.model.encode(images))
        target = F.avg_pool2d(batch.masks.unsqueeze(1).float(), self.loss_stride)
        coarse = F.adaptive_avg_pool2d(target, images.shape[-1] // MASK_STRIDE)

        prompt = (batch.point_coords, batch.point_labels, batch.mask_input, batch.has_mask_input)
        scale = self.model.mask_decoder.config.logit_scale
        low_res_masks, iou_predictions = self.model.decode(features, *prompt)
        first = prompt_losses(low_res_masks / scale, iou_predictions, target, True, self.weights)
        total, rounds = first.total, [first]
        for _ in range(corrections):
            prompt = _corrected(prompt, low_res_masks[:, :1].detach().float(), coarse)
            low_res_masks, iou_predictions = self.model.decode(features, *prompt)
            rounds.append(prompt_losses(low_res_masks / scale, iou_predictions, target, False, self.weights))
            total = total + rounds[-1].total
        return total / len(rounds), _figures(rounds, batch.is_click)


def _corrected(
    prompt: tuple[Tensor, Tensor, Tensor, Tensor], previous: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same prompts with one click more, in the largest wrong region, and the previous mask fed back."""
    coords, labels, _, _ = prompt
    clicks, click_labels = correction_clicks((previous[:, 0] > 0).cpu().numpy(), (target[:, 0] > 0.5).cpu().numpy())
    new_coords = torch.from_numpy(clicks).to(coords.device).unsqueeze(1)
    new_labels = torch.from_numpy(click_labels).to(coords.device).unsqueeze(1)
    return (
        torch.cat([coords, new_coords], dim=1),
        torch.cat([labels, new_labels], dim=1),
        previous,
        torch.ones(len(previous), device=previous.device),
    )


def _figures(rounds: list[Losses], is_click: Tensor) -> dict[str, Any]:
    first = rounds[0]
    figures = {
        "loss": float(first.total.detach()),
        "single": float(first.single.detach()),
        "best": float(first.best.detach()),
        "iou_error": float(first.iou_error.detach()),
        "iou": float(first.iou.mean()),
    }
    if bool(is_click.any()):
        figures["click_iou"] = float(first.iou[is_click].mean())
    if not bool(is_click.all()):
        figures["box_iou"] = float(first.iou[~is_click].mean())
    if len(rounds) > 1:
        figures["corrected_iou"] = float(rounds[-1].iou.mean())
    return figures


def draw_corrections(shares: tuple[float, ...], rng: np.random.Generator) -> int:
    """How many correction rounds a step has: index i with probability shares[i]."""
    return int(rng.choice(len(shares), p=np.array(shares) / sum(shares)))
