"""One step of each stage of distillation: the encoder's embeddings, then masks with prompts in the loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_edge.contract import LABEL_FOREGROUND, LABEL_PADDING, MASK_STRIDE
from sam_edge.model.sam import Sam
from sam_edge.train.data import stack_prompts
from sam_edge.train.distill_data import DistillBatch
from sam_edge.train.losses import LossWeights, enlarged, mask_iou, mask_losses
from sam_edge.train.prompting import PromptMix, correction_clicks, first_prompt
from sam_edge.train.step import normalise

__all__ = ["DISTILL_MIX", "EmbeddingStep", "MaskStep"]

DISTILL_MIX = PromptMix(box=0.35, box_jitter=0.15, click=0.4, clicks=0.1, box_click=0, mask_click=0)
Prompts = tuple[Tensor, Tensor, Tensor, Tensor]


class EmbeddingStep(nn.Module):
    """The student's image_embeddings learn the teacher's: squared error (MobileSAM, arXiv 2306.14289, section 3)."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: DistillBatch, corrections: int) -> tuple[Tensor, dict[str, Any]]:
        """Returns the loss and figures for the log (floats); `cosine` is the mean over cells."""
        images = normalise(batch.images, batch.padding, self.model).contiguous(memory_format=torch.channels_last)
        found = self.model.encode(images)[0].float()
        wanted = batch.image_embeddings.float()
        loss = F.mse_loss(found, wanted)
        cosine = F.cosine_similarity(found.detach(), wanted, dim=1).mean()
        return loss, {"loss": float(loss.detach()), "cosine": float(cosine)}


class MaskStep(nn.Module):
    """The student's masks learn the teacher's for the same prompts (EdgeSAM, arXiv 2312.06660, section 3).

    A box or clicks first, then clicks where student and teacher disagree. Each of the student's four masks learns its
    counterpart, and its predicted IoU learns the teacher's, less what the student's mask lacks of the teacher's. Where
    a photo has a true mask, `truth_share` of the loss is taken against that: the teacher is not always right.
    """

    def __init__(
        self,
        model: Sam,
        teacher: Sam,
        mix: PromptMix,
        truth_share: float,
        weights: LossWeights,
        loss_stride: int,
    ) -> None:
        super().__init__()
        self.model = model
        self._teacher = [teacher]  # in a list, so that it is no part of what is trained, saved and sent to processes
        self.mix, self.truth_share, self.weights, self.loss_stride = mix, truth_share, weights, loss_stride

    def forward(self, batch: DistillBatch, corrections: int) -> tuple[Tensor, dict[str, Any]]:
        """Returns the loss and figures for the log (floats)."""
        per_photo = len(batch.masks) // len(batch.images)
        images = normalise(batch.images, batch.padding, self.model).contiguous(memory_format=torch.channels_last)
        index = torch.arange(len(batch.images), device=images.device).repeat_interleave(per_photo)
        features = tuple(f[index] for f in self.model.encode(images))
        embeddings = batch.image_embeddings.float()[index]
        truth = F.avg_pool2d(batch.masks.unsqueeze(1).float(), self.loss_stride)

        prompts = self._first_prompts(batch, embeddings, index)
        low_res_masks, iou_predictions = self.model.decode(features, *prompts)
        teacher_masks, teacher_ious = self._ask_teacher(embeddings, prompts)
        found = [self._losses(low_res_masks, iou_predictions, teacher_masks, teacher_ious, truth, batch.has_truth)]
        for _ in range(corrections):  # each model is shown its own previous mask, as it would be in use
            prompts = self._corrected(prompts, low_res_masks[:, :1].detach().float(), teacher_masks[:, :1])
            low_res_masks, iou_predictions = self.model.decode(features, *prompts)
            teacher_masks, teacher_ious = self._ask_teacher(embeddings, prompts, teacher_masks[:, :1])
            single = low_res_masks[:, :1], iou_predictions[:, :1], teacher_masks[:, :1], teacher_ious[:, :1]
            found.append(self._losses(*single, truth, batch.has_truth))
        loss = torch.stack([total for total, _, _ in found]).mean()
        figures = {"loss": float(loss.detach()), "teacher_iou": float(found[0][1].mean())}
        if bool(batch.has_truth.any()):
            figures["truth_iou"] = float(found[0][2][batch.has_truth > 0].mean())
        if corrections:
            figures["corrected_teacher_iou"] = float(found[-1][1].mean())
        return loss, figures

    def _losses(
        self, masks: Tensor, ious: Tensor, teacher_masks: Tensor, teacher_ious: Tensor, truth: Tensor, has_truth: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, M, h, w), (B, M), the teacher's, truth (B, 1, H, W), (B,) -> loss, and IoU of mask 0 with both (B,)."""
        masks, ious = masks.float(), ious.float()
        logits = masks / self.model.mask_decoder.config.logit_scale
        wanted = (_resized(teacher_masks, truth.shape[-1]) > 0).float()
        with torch.no_grad():
            fine = enlarged(masks, truth)
            agreement, true_iou = mask_iou(fine, wanted), mask_iou(fine, truth)
        by_teacher = mask_losses(logits, wanted, self.weights).mean(1)
        by_teacher = by_teacher + (ious - agreement * teacher_ious).square().mean(1)
        each = mask_losses(logits, truth, self.weights)
        by_truth = each[:, 0] + (each[:, 1:].min(1).values if each.shape[1] > 1 else 0)
        by_truth = by_truth + (ious - true_iou).square().mean(1)
        share = self.truth_share * has_truth
        return ((1 - share) * by_teacher + share * by_truth).mean(), agreement[:, 0], true_iou[:, 0]

    def _first_prompts(self, batch: DistillBatch, embeddings: Tensor, index: Tensor) -> Prompts:
        """A prompt for every object; in a photo without true masks, for what the teacher finds at its points."""
        masks = batch.masks.cpu().numpy()
        asked = torch.nonzero(batch.has_truth == 0).flatten()
        if len(asked):
            inside = batch.padding[index[asked]].cpu().numpy()
            masks[asked.cpu().numpy()] = self._found_at(batch.points[asked], embeddings[asked]) * inside
        per_photo = len(masks) // len(batch.images)
        seeds = batch.seeds.tolist()
        prompts = [
            first_prompt(mask, self.mix, np.random.default_rng([seeds[i // per_photo], i % per_photo]))
            for i, mask in enumerate(masks)
        ]
        coords, labels, mask_input, has_mask_input = (x.to(embeddings.device) for x in stack_prompts(prompts))
        return coords, labels, mask_input, has_mask_input

    def _found_at(self, points: Tensor, embeddings: Tensor) -> Any:
        """The teacher's best mask at each point (A, 2) of the student's frame -> (A, S, S) uint8."""
        count, side = len(points), self.model.spec.image_size
        coords = torch.stack([points, torch.zeros_like(points)], 1)
        labels = points.new_tensor([[LABEL_FOREGROUND, LABEL_PADDING]]).expand(count, 2)
        empty = points.new_zeros(count, 1, side // MASK_STRIDE, side // MASK_STRIDE)
        masks, ious = self._ask_teacher(embeddings, (coords, labels, empty, points.new_zeros(count)))
        best = masks[torch.arange(count), 1 + ious[:, 1:].argmax(1)]
        large = F.interpolate(best[:, None], (side, side), mode="bilinear", align_corners=False)
        return (large[:, 0] > 0).to(torch.uint8).cpu().numpy()

    @torch.no_grad()
    def _ask_teacher(
        self, embeddings: Tensor, prompts: Prompts, previous: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The teacher's logits on its own grid and IoU (B, 4) for prompts in the student's frame, in float32."""
        teacher, (coords, labels, _, _) = self._teacher[0], prompts
        ours, theirs = self.model.spec, teacher.spec
        coords = (coords + 0.5) * (theirs.image_size / ours.image_size) - 0.5  # pixel centres onto pixel centres
        nothing = coords.new_zeros(len(coords), 1, theirs.mask_size, theirs.mask_size)
        mask_input = nothing if previous is None else previous
        has_mask_input = coords.new_full((len(coords),), float(previous is not None))
        with torch.autocast(coords.device.type, enabled=False):
            masks, ious = teacher.decode((embeddings,), coords, labels, mask_input, has_mask_input)
        return masks, ious

    def _corrected(self, prompts: Prompts, masks: Tensor, teacher_masks: Tensor) -> Prompts:
        """The same prompts with a click more where the masks disagree most, and the student's own mask fed back."""
        coords, labels, _, _ = prompts
        wanted = _resized(teacher_masks, self.model.spec.mask_size)
        clicks, click_labels = correction_clicks((masks[:, 0] > 0).cpu().numpy(), (wanted[:, 0] > 0).cpu().numpy())
        return (
            torch.cat([coords, torch.from_numpy(clicks).to(coords.device).unsqueeze(1)], dim=1),
            torch.cat([labels, torch.from_numpy(click_labels).to(coords.device).unsqueeze(1)], dim=1),
            masks,
            torch.ones(len(masks), device=masks.device),
        )


def _resized(masks: Tensor, size: int) -> Tensor:
    """Logits (B, M, h, w) -> (B, M, size, size)."""
    if masks.shape[-1] == size:
        return masks
    return F.interpolate(masks, (size, size), mode="bilinear", align_corners=False, antialias=True)
