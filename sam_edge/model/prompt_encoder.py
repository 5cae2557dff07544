"""Points, boxes and masks as tokens and maps (Segment Anything, arXiv 2304.02643, section 3 and appendix A)."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from sam_edge.contract import EMBEDDING_STRIDE, LABEL_EMPTY, LABEL_PADDING
from sam_edge.model.config import DecoderConfig
from sam_edge.model.layers import ACTIVATIONS, LayerNorm2d

__all__ = ["PromptEncoder"]

# Added to the attention logits of an empty slot. exp(-1e4) is exactly 0 in float32, and the value fits float16.
EMPTY_SLOT_BIAS = -1e4


class PositionEmbeddingRandom(nn.Module):
    """Positions through random frequencies (Tancik et al., arXiv 2006.10739)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, num_features))

    def forward(self, coords: Tensor) -> Tensor:
        """coords (..., 2) in 0..1, x then y -> (..., 2 * num_features)."""
        centred = 2 * coords - 1
        x, y = centred[..., :1], centred[..., 1:]
        # Not a matrix product: mixed precision would round the coordinates of one to half precision, 2 px of 512.
        angles = (2 * math.pi) * (
            x * self.positional_encoding_gaussian_matrix[0] + y * self.positional_encoding_gaussian_matrix[1]
        )
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)


class PromptEncoder(nn.Module):
    """Turns the contract's prompt tensors into tokens, their attention bias, and a dense embedding."""

    def __init__(self, config: DecoderConfig, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.pe_layer = PositionEmbeddingRandom(config.dim // 2)
        # background, foreground, a box's top left and bottom right corner: the contract's labels 0 to 3
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, config.dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, config.dim)
        channels, activation = config.mask_in_channels, ACTIVATIONS[config.activation]
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, channels // 4, kernel_size=2, stride=2),
            LayerNorm2d(channels // 4),
            activation(),
            nn.Conv2d(channels // 4, channels, kernel_size=2, stride=2),
            LayerNorm2d(channels),
            activation(),
            nn.Conv2d(channels, config.dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, config.dim)

    def get_dense_pe(self) -> Tensor:
        """Positions of the embedding's cells, (1, dim, S/16, S/16)."""
        size = self.image_size // EMBEDDING_STRIDE
        centres = (torch.arange(size, device=self._device, dtype=torch.float32) + 0.5) / size
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        encoded: Tensor = self.pe_layer(torch.stack([x, y], dim=-1))  # (size, size, dim)
        return encoded.permute(2, 0, 1).unsqueeze(0)

    def embed_points(self, point_coords: Tensor, point_labels: Tensor) -> tuple[Tensor, Tensor]:
        """point_coords (B, N, 2) px of the resized image, point_labels (B, N) -> tokens (B, N, dim), (B, 1, 1, N)."""
        positions = self.pe_layer((point_coords + 0.5) / self.image_size)  # half a pixel: to the pixel's centre
        labels = point_labels.unsqueeze(-1)
        tokens = positions * (labels != LABEL_PADDING) + self.not_a_point_embed.weight * (labels == LABEL_PADDING)
        for label, embedding in enumerate(self.point_embeddings):
            tokens = tokens + cast(Tensor, embedding.weight) * (labels == label)
        bias = (point_labels == LABEL_EMPTY).to(tokens.dtype) * EMPTY_SLOT_BIAS
        return tokens, bias[:, None, None, :]

    def embed_masks(self, mask_input: Tensor, has_mask_input: Tensor) -> Tensor:
        """mask_input (B, 1, S/4, S/4) logits, has_mask_input (B,) 1 or 0 -> dense embedding (B, dim, S/16, S/16)."""
        given = has_mask_input[:, None, None, None]
        no_mask = self.no_mask_embed.weight[:, :, None, None]
        return self.mask_downscaling(mask_input) * given + no_mask * (1 - given)  # type: ignore[no-any-return]

    def forward(
        self, point_coords: Tensor, point_labels: Tensor, mask_input: Tensor, has_mask_input: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The contract's prompt tensors -> sparse (B, N, dim), its bias (B, 1, 1, N), dense (B, dim, S/16, S/16)."""
        sparse, bias = self.embed_points(point_coords, point_labels)
        return sparse, bias, self.embed_masks(mask_input, has_mask_input)

    @property
    def _device(self) -> torch.device:
        return self.pe_layer.positional_encoding_gaussian_matrix.device
