"""Prompts as maps: what a small decoder learns from far sooner than from tokens alone.

In a trial of equal length a decoder with tokens only drew the salient object whatever the prompt; with these maps it
followed the prompt (docs/training.md has the figures). The maps are computed from the contract's tensors inside the
decoder, with tensors of at most four dimensions and no gather, so that every format can carry them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_edge.contract import (
    LABEL_BACKGROUND,
    LABEL_BOX_BOTTOM_RIGHT,
    LABEL_BOX_TOP_LEFT,
    LABEL_FOREGROUND,
    MASK_STRIDE,
)

__all__ = ["NUM_DENSE_PROMPT_MAPS", "box_alone", "dense_prompt_maps", "with_new_maps"]

NUM_DENSE_PROMPT_MAPS = 11  # without the box's ellipse, which comes last

_BOX_GIVEN, _MASK_GIVEN = 0, 10  # maps that are 0 or 1 everywhere
_FAR = 1e8  # squared pixels: a distance no point of a photo has
_MASK_SCALE = 8.0  # logits beyond +-8 are certain


def dense_prompt_maps(
    point_coords: Tensor,
    point_labels: Tensor,
    mask_input: Tensor,
    has_mask_input: Tensor,
    image_size: int,
    stride: int,
    box_ellipse: bool = False,
) -> Tensor:
    """The contract's prompt tensors -> (B, 11 or 12, S/stride, S/stride).

    Five maps of the box (given, inside, relative x, relative y, signed distance to the edge), two of the foreground
    and two of the background points (near, far), two of the mask (logits, given); with `box_ellipse` what an object of
    few pixels most likely fills: the box's ellipse. Absent prompts leave zeros.
    """
    size = image_size // stride
    centres = (torch.arange(size, device=point_coords.device, dtype=torch.float32) + 0.5) * stride
    x, y = centres.view(1, 1, 1, size), centres.view(1, 1, size, 1)
    *box, ellipse = _box_maps(x, y, point_coords, point_labels, stride)
    points = _point_maps(x, y, point_coords, point_labels, image_size, stride)
    mask = _mask_maps(mask_input, has_mask_input, stride)
    return torch.cat([*box, points, mask, *([ellipse] if box_ellipse else [])], dim=1)


def box_alone(maps: Tensor) -> Tensor:
    """(B, 1, 1, 1) of `dense_prompt_maps`: 1 where a box is given and no mask, else 0."""
    given, mask = (maps[:, i : i + 1, :1, :1] for i in (_BOX_GIVEN, _MASK_GIVEN))
    return given - given * mask


def with_new_maps(earlier: Tensor, own: Tensor) -> Tensor:
    """A convolution's weights over fewer maps, with zeros for those that `own` reads as well: new maps come last."""
    return F.pad(earlier, (0, 0, 0, 0, 0, max(0, own.shape[1] - earlier.shape[1])))


def _box_maps(x: Tensor, y: Tensor, point_coords: Tensor, point_labels: Tensor, stride: int) -> list[Tensor]:
    is_min = (point_labels == LABEL_BOX_TOP_LEFT).float().unsqueeze(-1)  # (B, N, 1)
    is_max = (point_labels == LABEL_BOX_BOTTOM_RIGHT).float().unsqueeze(-1)
    low = (point_coords * is_min).sum(1)[:, :, None, None]  # (B, 2, 1, 1): at most one such slot a prompt
    high = (point_coords * is_max).sum(1)[:, :, None, None]
    given = is_min.sum(1)[:, :, None, None]  # (B, 1, 1, 1)
    x0, y0, x1, y1 = low[:, :1], low[:, 1:], high[:, :1], high[:, 1:]
    u = ((2 * x - x0 - x1) / (x1 - x0).clamp(min=2)).clamp(-2, 2)  # -1 at the left edge, 1 at the right
    v = ((2 * y - y0 - y1) / (y1 - y0).clamp(min=2)).clamp(-2, 2)
    to_edge = torch.minimum(torch.minimum(x - x0, x1 - x), torch.minimum(y - y0, y1 - y))  # > 0 inside
    inside = (to_edge / stride + 0.5).clamp(0, 1)  # anti-aliased
    distance = (to_edge / (4 * stride)).clamp(-1, 1)
    flat = torch.zeros_like(to_edge)
    ellipse = (1 - u * u - v * v).clamp(min=-1)  # 1 in the middle, 0 on the inscribed ellipse
    return [part * given for part in (flat + 1, inside, u + flat, v + flat, distance, ellipse)]


def _point_maps(
    x: Tensor, y: Tensor, point_coords: Tensor, point_labels: Tensor, image_size: int, stride: int
) -> Tensor:
    px = point_coords[:, :, :1].unsqueeze(-1) + 0.5  # (B, N, 1, 1), to the pixel's centre
    py = point_coords[:, :, 1:].unsqueeze(-1) + 0.5
    squared = (x - px) ** 2 + (y - py) ** 2  # (B, N, size, size)
    maps = []
    for label in (LABEL_FOREGROUND, LABEL_BACKGROUND):
        other = (point_labels != label).float()[:, :, None, None]
        nearest = (squared + other * _FAR).amin(1, keepdim=True)
        maps.append(torch.exp(-nearest / (2 * (1.5 * stride) ** 2)))
        maps.append(torch.exp(-torch.sqrt(nearest + 1e-6) / (image_size / 8)))
    return torch.cat(maps, dim=1)


def _mask_maps(mask_input: Tensor, has_mask_input: Tensor, stride: int) -> Tensor:
    given = has_mask_input[:, None, None, None]
    logits = (mask_input / _MASK_SCALE).clamp(-1, 1) * given
    if stride > MASK_STRIDE:
        logits = F.avg_pool2d(logits, stride // MASK_STRIDE)
    return torch.cat([logits, torch.zeros_like(logits) + given], dim=1)
