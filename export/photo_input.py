"""`image.preprocess` as a part of the graph: a photo of any size in, the encoder's image out.

Pillow's bilinear resize is two products with a narrow band matrix each, rounded to 8 bits in between. Here the matrices
are dense and computed from the photo's size: plain matrix products, which every runtime has and runs fast, where the
`Resize` of today's runtimes differs (ONNX Runtime's antialiasing by up to 15 grey levels at the borders of a large
photo; OpenVINO's has none).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_edge.contract import ModelSpec

__all__ = ["PhotoInput"]


class PhotoInput(nn.Module):
    """photo (H, W, 3) uint8, RGB -> image (1, 3, S, S) float32, within one grey level of `image.preprocess`.

    Where a sum lies half-way between two levels, Pillow's weights of 22 bits may round to the other one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.side = spec.image_size
        self.register_buffer("mean", torch.tensor(spec.pixel_mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(spec.pixel_std)[:, None, None], persistent=False)

    def forward(self, photo: Tensor) -> Tensor:
        height, width = photo.shape[0], photo.shape[1]
        longest = torch.sym_max(height, width)  # type: ignore[no-untyped-call]
        new_height, new_width = (self._resized(side, longest) for side in (height, width))
        x = photo.permute(2, 0, 1).float()
        x = to_8_bits(x @ bilinear_weights(width, new_width).T)  # (3, H, w); Pillow resizes rows first
        x = to_8_bits(bilinear_weights(height, new_height) @ x)  # (3, h, w)
        x = (x - self.mean) / self.std
        return F.pad(x, (0, self.side - new_width, 0, self.side - new_height)).unsqueeze(0)

    def _resized(self, side: Any, longest: Any) -> Any:
        """`image.resized_size` of one side."""
        return torch.sym_max(1, (2 * side * self.side + longest) // (2 * longest))  # type: ignore[no-untyped-call]


def to_8_bits(x: Tensor) -> Tensor:
    """Rounded half up, as Pillow does after each of its two passes."""
    return torch.floor(x + 0.5)


def bilinear_weights(size: Any, new_size: Any) -> Tensor:
    """(new_size, size): the share of each pixel in each new one, a triangle as wide as two pixels of the coarser grid.

    As Pillow's `Resampling.BILINEAR` computes it, antialiased where it shrinks.
    """
    ratio = torch.scalar_tensor(size) / torch.scalar_tensor(new_size)
    centres = (torch.arange(new_size).float() + 0.5) * ratio
    pixels = torch.arange(size).float() + 0.5
    distance = (pixels[None, :] - centres[:, None]).abs() / torch.clamp(ratio, min=1.0)
    weights = torch.clamp(1.0 - distance, min=0.0)
    return weights / weights.sum(dim=1, keepdim=True)
