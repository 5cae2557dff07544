"""SAM's image encoder (Segment Anything, arXiv 2304.02643, appendix A; ViTDet, Li et al., arXiv 2203.16527).

A plain ViT. Most blocks attend within windows of 14 x 14 tokens, a few over the whole image; both add a bias from the
relative position of query and key, decomposed into a row and a column term (MViTv2, Li et al., arXiv 2112.01526).
Every reshape stays within four dimensions, so that phone runtimes can carry the graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_edge import kernels as kernels  # the model takes them from here: one line names them
from sam_edge.contract import EMBEDDING_STRIDE
from sam_edge.model.config import ViTConfig
from sam_edge.model.layers import LayerNorm2d, MLPBlock

__all__ = ["ImageEncoderViT", "resize_positions"]

LAYER_NORM_EPS = 1e-6


def relative_positions(query_size: int, key_size: int, table: Tensor) -> Tensor:
    """Embeddings of the distances from keys to queries on one axis: table (L, dim) -> (query_size, key_size, dim).

    A table of another length than the 2 * max(query_size, key_size) - 1 distances is interpolated linearly; where the
    sizes differ, the shorter axis is stretched over the longer one.
    """
    table = resize_table(table, 2 * max(query_size, key_size) - 1)
    query_step, key_step = max(key_size / query_size, 1.0), max(query_size / key_size, 1.0)
    queries = torch.arange(query_size, device=table.device) * query_step
    keys = torch.arange(key_size, device=table.device) * key_step
    distances = queries[:, None] - keys[None, :] + (key_size - 1) * key_step
    return table[distances.long()]


def resize_table(table: Tensor, length: int) -> Tensor:
    """Interpolate a table of relative positions linearly: (L, dim) -> (length, dim)."""
    if len(table) == length:
        return table
    return F.interpolate(table.t().unsqueeze(0), size=length, mode="linear").squeeze(0).t()


def relative_position_terms(query: Tensor, rel_h: Tensor, rel_w: Tensor) -> tuple[Tensor, Tensor]:
    """The row and the column term of the attention bias, which is `rows[..., :, None] + columns[..., None, :]`.

    query (b, H * W, dim), unscaled; rel_h (H, H, dim), rel_w (W, W, dim) -> rows (b, H * W, H), columns (b, H * W, W).
    """
    grid = query.reshape(-1, rel_h.shape[0], rel_w.shape[0], query.shape[2])  # (b, H, W, dim)
    rows = grid @ rel_h.transpose(1, 2)  # (b, H, W, H)
    columns = (grid.transpose(1, 2) @ rel_w.transpose(1, 2)).transpose(1, 2)  # (b, H, W, W)
    return rows.flatten(1, 2), columns.flatten(1, 2)


def relative_position_attention(query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(dim) + bias) value, with the bias of `relative_position_terms`.

    query, key, value (n, heads, H * W, dim); rel_h (H, H, dim), rel_w (W, W, dim) -> (n, heads, H * W, dim). The bias,
    (n, heads, H * W, H * W), is the one large tensor here: the fused attention keeps no matrix of logits beside it.
    """
    rows, columns = relative_position_terms(query.flatten(0, 1), rel_h, rel_w)
    bias = rows.unsqueeze(3) + columns.unsqueeze(2)  # (n * heads, H * W, H, W)
    heads, tokens = query.shape[1:3]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias.reshape(-1, heads, tokens, tokens))


def window_partition(x: Tensor, size: int) -> Tensor:
    """x (n, H, W, C) -> windows (n * rows * columns, size, size, C), zeros right and below to fill the last ones."""
    height, width, channels = x.shape[1:]
    x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
    columns = x.shape[2] // size
    strips = x.reshape(-1, size, columns, size * channels)  # (n * rows, size, columns, size * C)
    return strips.transpose(1, 2).reshape(-1, size, size, channels)


def window_unpartition(windows: Tensor, grid: tuple[int, int]) -> Tensor:
    """Undo `window_partition`: windows (n * rows * columns, size, size, C) -> (n, H, W, C)."""
    size, channels = windows.shape[1], windows.shape[3]
    height, width = grid
    rows, columns = -(-height // size), -(-width // size)
    strips = windows.reshape(-1, columns, size, size * channels).transpose(1, 2)  # (n * rows, size, columns, size * C)
    return strips.reshape(-1, rows * size, columns * size, channels)[:, :height, :width]


class PatchEmbed(nn.Module):
    """A linear map of every 16 x 16 patch."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=EMBEDDING_STRIDE, stride=EMBEDDING_STRIDE)

    def forward(self, image: Tensor) -> Tensor:
        """image (n, 3, S, S) -> (n, S/16, S/16, embed_dim)."""
        return self.proj(image).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention over `grid_size` x `grid_size` tokens: the whole image, or each of its windows."""

    attention = "auto"  # one of kernels.ATTENTION_PATHS, set by Sam.use_attention

    def __init__(self, dim: int, num_heads: int, grid_size: int, windowed: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = grid_size if windowed else 0
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid_size - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid_size - 1, dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """x (n, H, W, dim), normalised -> (n, H, W, dim).

        Zeros are padded after the norm: keys and values of the padding equal the bias of `qkv` and take part.
        """
        grid = x.shape[1], x.shape[2]
        path = None
        if self.window_size:
            path = kernels.choose_window_path(self.attention, x, self.window_size, self.num_heads)
            if path == "triton":
                return self.proj(self._attend_in_windows(x))  # type: ignore[no-any-return]
            x = window_partition(x, self.window_size)
        height, width = x.shape[1:3]
        q, k, v = (self._split_heads(part) for part in self.qkv(x.flatten(1, 2)).chunk(3, dim=-1))
        out = self._attend(q, k, v, (height, width), path)  # (n, heads, H * W, dim / heads)
        out = out.transpose(1, 2).reshape(-1, height, width, self.proj.in_features)
        if self.window_size:
            out = window_unpartition(out, grid)
        return self.proj(out)  # type: ignore[no-any-return]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], path: str | None) -> Tensor:
        """Attention over all tokens of a grid, on the path given or, for the whole image, chosen."""
        height, width = grid
        tables = resize_table(self.rel_pos_h, 2 * height - 1), resize_table(self.rel_pos_w, 2 * width - 1)
        path = path or kernels.choose_global_path(self.attention, q, k, v, *tables)
        if path == "triton":
            return kernels.rel_pos_attention(q, k, v, *(table.to(q.dtype) for table in tables))
        if path == "reference":
            return kernels.rel_pos_attention_reference(q, k, v, *tables)
        rel_h = relative_positions(height, height, tables[0])
        rel_w = relative_positions(width, width, tables[1])
        return relative_position_attention(q, k, v, rel_h, rel_w)

    def _attend_in_windows(self, x: Tensor) -> Tensor:
        """The kernel's path: no window is cut out, and the padding is its one vector, the bias of `qkv`."""
        qkv = self.qkv(x)
        padding, *tables = (part.to(qkv.dtype) for part in (self.qkv.bias, self.rel_pos_h, self.rel_pos_w))
        return kernels.window_attention(qkv, padding, tuple(tables), self.window_size, self.num_heads)

    def _split_heads(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        return x.reshape(n, tokens, self.num_heads, dim // self.num_heads).transpose(
            1, 2
        )  # (n, heads, H * W, dim / heads)


class Block(nn.Module):
    """A transformer block with the norms before attention and MLP."""

    def __init__(self, config: ViTConfig, windowed: bool) -> None:
        super().__init__()
        dim = config.embed_dim
        grid_size = config.window_size if windowed else config.image_size // EMBEDDING_STRIDE
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, config.num_heads, grid_size, windowed)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = MLPBlock(dim, config.mlp_ratio * dim, F.gelu)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class ImageEncoderViT(nn.Module):
    """image (n, 3, S, S) -> (image_embeddings (n, out_channels, S/16, S/16),)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        grid_size = config.image_size // EMBEDDING_STRIDE
        self.patch_embed = PatchEmbed(config.embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid_size, grid_size, config.embed_dim))
        self.blocks = nn.ModuleList(Block(config, i not in config.global_blocks) for i in range(config.depth))
        self.neck = nn.Sequential(
            nn.Conv2d(config.embed_dim, config.out_channels, kernel_size=1, bias=False),
            LayerNorm2d(config.out_channels),
            nn.Conv2d(config.out_channels, config.out_channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(config.out_channels),
        )

    def forward(self, image: Tensor) -> tuple[Tensor]:
        x = self.patch_embed(image) + self.pos_embed  # (n, H, W, embed_dim)
        for block in self.blocks:
            x = block(x)
        return (self.neck(x.permute(0, 3, 1, 2)),)


def resize_positions(
    state: Mapping[str, Tensor], config: ViTConfig, prefix: str = "image_encoder."
) -> dict[str, Tensor]:
    """A state dict of another input side, for `config`'s: position tables interpolated, all else as it is.

    The absolute positions bicubically, the relative ones of the global blocks linearly, as `relative_positions` does.
    Done once when loading, so that a graph of any side is as plain as that of the trained one.
    """
    state = dict(state)
    grid_size = config.image_size // EMBEDDING_STRIDE
    name = f"{prefix}pos_embed"
    if state[name].shape[1] != grid_size:
        maps = state[name].float().permute(0, 3, 1, 2)  # (1, embed_dim, H, W)
        maps = F.interpolate(maps, size=(grid_size, grid_size), mode="bicubic", align_corners=False, antialias=True)
        state[name] = maps.permute(0, 2, 3, 1).contiguous()
    for block in config.global_blocks:
        for axis in "hw":
            name = f"{prefix}blocks.{block}.attn.rel_pos_{axis}"
            state[name] = resize_table(state[name].float(), 2 * grid_size - 1).contiguous()
    return state
