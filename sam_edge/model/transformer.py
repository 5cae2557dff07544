"""The two-way transformer of SAM's mask decoder (Segment Anything, arXiv 2304.02643, appendix A, figure 14)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sam_edge.model.config import DecoderConfig
from sam_edge.model.layers import MLPBlock

__all__ = ["Attention", "TwoWayTransformer"]


class Attention(nn.Module):
    """Multi-head attention whose inner width is `dim / downsample`."""

    def __init__(self, dim: int, num_heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner_dim = dim // downsample
        self.num_heads = num_heads
        self.head_dim = inner_dim // num_heads
        self.q_proj = nn.Linear(dim, inner_dim)
        self.k_proj = nn.Linear(dim, inner_dim)
        self.v_proj = nn.Linear(dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """q (B, Nq, dim), k and v (B, Nk, dim), key_bias (B, 1, 1, Nk) added to the logits -> (B, Nq, dim)."""
        q = self._split_heads(self.q_proj(q))  # (B, heads, Nq, head_dim)
        k = self._split_heads(self.k_proj(k))
        v = self._split_heads(self.v_proj(v))
        logits = (q @ k.transpose(2, 3)) / math.sqrt(self.head_dim)  # (B, heads, Nq, Nk)
        if key_bias is not None:
            logits = logits + key_bias
        out = torch.softmax(logits, dim=-1) @ v
        return self.out_proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, self.head_dim).transpose(1, 2)


class TwoWayAttentionBlock(nn.Module):
    """Tokens attend to themselves, then to the image; after an MLP the image attends to the tokens."""

    def __init__(self, config: DecoderConfig, first: bool) -> None:
        super().__init__()
        dim, heads, downsample = config.dim, config.num_heads, config.attention_downsample
        self.first = first
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, downsample)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLPBlock(dim, config.mlp_dim, torch.relu)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, downsample)

    def forward(
        self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor, token_bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.first:  # the first block's tokens are their own positions: no terms added, no residual
            tokens = self.self_attn(tokens, tokens, tokens, token_bias)
        else:
            placed = tokens + token_pe
            tokens = tokens + self.self_attn(placed, placed, tokens, token_bias)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, image + image_pe, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(
            image + self.cross_attn_image_to_token(image + image_pe, tokens + token_pe, tokens, token_bias)
        )
        return tokens, image


class TwoWayTransformer(nn.Module):
    """`depth` blocks and a last look of the tokens at the image."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayAttentionBlock(config, first=i == 0) for i in range(config.depth))
        self.final_attn_token_to_image = Attention(config.dim, config.num_heads, config.attention_downsample)
        self.norm_final_attn = nn.LayerNorm(config.dim)

    def forward(
        self, image: Tensor, image_pe: Tensor, tokens: Tensor, token_bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """image (B, h*w, dim), image_pe (1, h*w, dim), tokens (B, T, dim) -> tokens, image of the same shapes.

        token_bias (B, 1, 1, T) is 0 for a token and very negative for an empty slot, which then takes no part as a key.
        """
        token_pe = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe, token_bias)
        attended = self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + attended), image
