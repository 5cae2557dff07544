"""The contract of `mask_statistics`: every mask at the photo's size, then counted. Plain torch, float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["counts", "upscale_logits"]

Size = tuple[int, int]


def upscale_logits(low_res_masks: Tensor, image_size: int, input_size: Size, original_size: Size) -> Tensor:
    """(N, S/4, S/4) -> (N, H, W) float32 logits: to the model's side S, cropped to (h, w), then to the photo.

    Both steps bilinear without aligned corners, as `Sam.postprocess_masks` and `masks.upscale_logits`.
    """
    logits = low_res_masks.float().unsqueeze(1)
    logits = F.interpolate(logits, (image_size, image_size), mode="bilinear", align_corners=False)
    logits = logits[..., : input_size[0], : input_size[1]]
    return F.interpolate(logits, original_size, mode="bilinear", align_corners=False).squeeze(1)


def counts(
    low_res_masks: Tensor, image_size: int, input_size: Size, original_size: Size, threshold: float, offset: float
) -> Tensor:
    """(N, S/4, S/4) -> (N, 7) int32 of each mask at the photo's size.

    Pixels above threshold + offset, above threshold - offset, above threshold; then the first and last column and row
    of the last ones as x0, y0, x1, y1, both inclusive: (W, H, -1, -1) where there are none.
    """
    height, width = original_size
    logits = upscale_logits(low_res_masks, image_size, input_size, original_size)
    areas = [(logits > level).sum((1, 2)) for level in (threshold + offset, threshold - offset, threshold)]
    mask = logits > threshold
    x, y = (torch.arange(length, device=logits.device) for length in (width, height))
    columns, rows = mask.any(1), mask.any(2)  # (N, W), (N, H)
    first = [torch.where(columns, x, width).amin(1), torch.where(rows, y, height).amin(1)]
    last = [torch.where(columns, x, -1).amax(1), torch.where(rows, y, -1).amax(1)]
    return torch.stack([*areas, *first, *last], dim=1).to(torch.int32)
