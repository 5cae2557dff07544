"""The contract of `rel_pos_attention`: plain torch, every step written out, in float32 or better."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["distances", "rel_pos_attention", "relative_position_terms"]


def relative_position_terms(query: Tensor, table_h: Tensor, table_w: Tensor) -> tuple[Tensor, Tensor]:
    """query (n, heads, H * W, dim), table_h (2 * H - 1, dim), table_w (2 * W - 1, dim) -> the bias's two parts.

    rows (n, heads, H * W, H): query (y, x) times table_h[y - y' + H - 1], for every row y' of keys; columns
    (n, heads, H * W, W) alike (segment-anything, image_encoder.py, add_decomposed_rel_pos: the query is unscaled).
    """
    height, width = (len(table_h) + 1) // 2, (len(table_w) + 1) // 2
    grid = torch.unflatten(query, 2, (height, width))  # (n, heads, H, W, dim)
    rows = torch.einsum("nhyxd,ykd->nhyxk", grid, table_h[distances(height, query.device)])
    columns = torch.einsum("nhyxd,xkd->nhyxk", grid, table_w[distances(width, query.device)])
    return rows.flatten(2, 3), columns.flatten(2, 3)


def rel_pos_attention(query: Tensor, key: Tensor, value: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(dim) + rows + columns) value, for a grid of H x W tokens in reading order.

    query, key, value (n, heads, H * W, dim), table_h (2 * H - 1, dim), table_w (2 * W - 1, dim), floating-point
    -> (n, heads, H * W, dim) in query's dtype, computed in float32, or in float64 where query is.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    q, k, v, table_h, table_w = (x.to(exact) for x in (query, key, value, table_h, table_w))
    rows, columns = relative_position_terms(q, table_h, table_w)
    bias = (rows.unsqueeze(4) + columns.unsqueeze(3)).flatten(3)  # (n, heads, H * W, H * W)
    logits: Tensor = q @ k.transpose(2, 3) * q.shape[3] ** -0.5 + bias
    return (logits.softmax(3) @ v).to(query.dtype)


def distances(length: int, device: torch.device) -> Tensor:
    """(length, length) int64: from each key to each query, counted from 0."""
    places = torch.arange(length, device=device)
    return places[:, None] - places[None, :] + length - 1
