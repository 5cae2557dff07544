"""The whole model: encoder, prompt encoder and mask decoder behind the contract's two calls."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_edge.contract import (
    EMBEDDING_STRIDE,
    LABEL_BOX_BOTTOM_RIGHT,
    LABEL_BOX_TOP_LEFT,
    LABEL_EMPTY,
    LABEL_PADDING,
    MASK_STRIDE,
    MASK_THRESHOLD,
    ModelSpec,
)
from sam_edge.errors import ImageError, PromptError
from sam_edge.model import tinyvit, vit
from sam_edge.model.config import EncoderConfig, ModelConfig
from sam_edge.model.dense_prompts import dense_prompt_maps
from sam_edge.model.mask_decoder import MaskDecoder
from sam_edge.model.prompt_encoder import PromptEncoder

__all__ = ["Sam"]


class Sam(nn.Module):
    """Segment Anything (arXiv 2304.02643). `encode` and `decode` are the contract and what is exported."""

    pixel_mean: Tensor
    pixel_std: Tensor
    mask_threshold = MASK_THRESHOLD

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        spec: ModelSpec,
        attention: str = "auto",
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.spec = spec
        # On the CPU by name: a model built on the meta device gets its weights from a file, which does not hold these.
        mean, std = (torch.tensor(x, device="cpu").view(3, 1, 1) for x in (spec.pixel_mean, spec.pixel_std))
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)
        self.use_attention(attention)

    def use_attention(self, attention: str) -> None:
        """How a ViT's or TinyViT's blocks attend: "auto", "triton", "sdpa" or "reference" (sam_edge.kernels).

        "auto" is the kernel on a GPU that has one and torch's fused attention elsewhere, said once to the log
        `sam_edge.kernels`; "reference" writes every step out in torch. "triton" raises RuntimeUnavailable, in `encode`,
        where the kernel cannot run. Raises ValueError for any other word.
        """
        vit.kernels.check_path(attention)
        for module in self.image_encoder.modules():
            if isinstance(module, vit.Attention | tinyvit.Attention):
                module.attention = attention

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def config(self) -> ModelConfig:
        """All that is needed to build this model again."""
        spec = self.spec
        return ModelConfig(
            name=spec.name,
            encoder=cast(EncoderConfig, self.image_encoder.config),
            decoder=self.mask_decoder.config,
            pixel_mean=spec.pixel_mean,
            pixel_std=spec.pixel_std,
            pred_iou_thresh=spec.pred_iou_thresh,
            stability_score_thresh=spec.stability_score_thresh,
        )

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """image (n, 3, S, S), see `preprocess` -> image_embeddings (n, C, S/16, S/16), features at S/4 and S/8."""
        return self.image_encoder(image)  # type: ignore[no-any-return]

    def decode(
        self,
        embeddings: tuple[Tensor, ...],
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What `encode` returned and B prompts (contract.PromptTensors) -> low_res_masks (B, 4, S/4, S/4), IoU (B, 4).

        Embeddings of one image serve all prompts; of B images, the i-th prompt is for the i-th image.
        """
        image_embeddings, *high_res_features = embeddings
        prompts = point_coords, point_labels, mask_input, has_mask_input
        sparse, sparse_bias, dense = self.prompt_encoder(*prompts)
        maps, config = None, self.mask_decoder.config
        if config.dense_prompts:
            maps = {
                stride: dense_prompt_maps(*prompts, self.spec.image_size, stride, config.box_ellipse)
                for stride in (EMBEDDING_STRIDE, MASK_STRIDE)
            }
        image_pe = self.prompt_encoder.get_dense_pe()
        return self.mask_decoder(  # type: ignore[no-any-return]
            image_embeddings, image_pe, sparse, sparse_bias, dense, tuple(high_res_features), maps
        )

    def preprocess(self, image: Tensor) -> Tensor:
        """RGB image (..., 3, h, w) in 0 to 255, already resized -> (..., 3, S, S), normalised, filled with zeros."""
        height, width = image.shape[-2:]
        side = self.spec.image_size
        if max(height, width) > side:
            raise ImageError(
                f"image has height and width {(height, width)}, expected at most {side}. Resize its longest side first."
            )
        normalised = (image - self.pixel_mean) / self.pixel_std
        return F.pad(normalised, (0, side - width, 0, side - height))

    def postprocess_masks(self, masks: Tensor, input_size: tuple[int, int], original_size: tuple[int, int]) -> Tensor:
        """low_res_masks (B, C, S/4, S/4) -> logits (B, C, H, W): enlarged to S, padding cut off, resized."""
        side = self.spec.image_size
        masks = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)
        masks = masks[..., : input_size[0], : input_size[1]]
        return F.interpolate(masks, original_size, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def forward(self, batched_input: list[dict[str, Any]], multimask_output: bool) -> list[dict[str, Tensor]]:
        """Several images in one call, with segment-anything's keys.

        Each input: `image` (3, h, w), resized; `original_size` (H, W); any of `point_coords` (B, N, 2) with
        `point_labels` (B, N), `boxes` (B, 4), in pixels of the resized image, and `mask_inputs` (B, 1, S/4, S/4). Each
        result: `masks` (B, C, H, W) bool, `iou_predictions` (B, C) and `low_res_logits` (B, C, S/4, S/4); C is 3 with
        `multimask_output`, else 1. Raises PromptError and ImageError.
        """
        features = self.encode(torch.stack([self.preprocess(record["image"]) for record in batched_input]))
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        results = []
        for index, record in enumerate(batched_input):
            embeddings = tuple(feature[index : index + 1] for feature in features)
            low_res_masks, iou_predictions = self.decode(embeddings, *self._prompt_tensors(record))
            low_res_masks, iou_predictions = low_res_masks[:, chosen], iou_predictions[:, chosen]
            input_size = tuple(record["image"].shape[-2:])
            logits = self.postprocess_masks(low_res_masks, input_size, tuple(record["original_size"]))
            masks = logits > self.mask_threshold
            results.append({"masks": masks, "iou_predictions": iou_predictions, "low_res_logits": low_res_masks})
        return results

    def _prompt_tensors(self, record: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """SAM's rules: points, then the box's corners; without a box one padding point follows the points."""
        coords, labels = record.get("point_coords"), record.get("point_labels")
        boxes, masks = record.get("boxes"), record.get("mask_inputs")
        if (coords is None) != (labels is None):
            raise PromptError("point_coords and point_labels must come together: give both, or none of them.")
        batch = {
            name: len(x) for name, x in (("points", coords), ("boxes", boxes), ("mask_inputs", masks)) if x is not None
        }
        if len(set(batch.values())) > 1:
            raise PromptError(
                f"prompts of one image differ in number: {batch}. Give each prompt its own row in all of them."
            )
        count = next(iter(batch.values()), 1)

        def slots(label: int) -> Tensor:
            return torch.full((count, 1), float(label), device=self.device)

        nowhere = torch.zeros(count, 1, 2, device=self.device)
        all_coords, all_labels = [], []
        if coords is not None and labels is not None:
            all_coords.append(coords.to(nowhere))
            all_labels.append(labels.to(nowhere))
        if boxes is not None:
            all_coords.append(boxes.to(nowhere).reshape(count, 2, 2))
            all_labels += [slots(LABEL_BOX_TOP_LEFT), slots(LABEL_BOX_BOTTOM_RIGHT)]
        else:
            all_coords.append(nowhere)
            all_labels.append(slots(LABEL_EMPTY if coords is None else LABEL_PADDING))
        size = self.spec.mask_size
        mask_input = torch.zeros(count, 1, size, size, device=self.device) if masks is None else masks.to(nowhere)
        has_mask_input = torch.full((count,), float(masks is not None), device=self.device)
        return torch.cat(all_coords, dim=1), torch.cat(all_labels, dim=1), mask_input, has_mask_input
