"""The contract of `window_attention`: plain torch that fills up, cuts, attends and joins, in float32 or better."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_edge.kernels.rel_pos_attention import reference as global_reference

__all__ = ["bias_of_distances", "cut_windows", "join_windows", "split_heads", "window_attention"]


def window_attention(
    qkv: Tensor, padding: Tensor, bias: tuple[Tensor, ...], window: int, num_heads: int, heads_first: bool = False
) -> Tensor:
    """Attention within windows of window x window tokens of a map, with the windows at its end filled up.

    qkv (n, H, W, 3 * C): queries, keys and values of every token, as SAM's (3, heads, dim) or, `heads_first`, as
    TinyViT's (heads, 3, dim). padding (3 * C,): what stands in a place that fills a window up; it is a key like any
    other. bias: SAM's two tables (2 * window - 1, dim), or TinyViT's one (heads, window ** 2) by |dy| * window + |dx|.
    -> (n, H, W, C) in qkv's dtype, computed in float32, or in float64 where qkv is.
    """
    exact = torch.promote_types(qkv.dtype, torch.float32)
    grid = qkv.shape[1], qkv.shape[2]
    windows = cut_windows(qkv.to(exact), padding.to(exact), window)  # (windows, window ** 2, 3 * C)
    query, key, value = split_heads(windows, num_heads, heads_first)
    tables = [table.to(exact) for table in bias]
    if len(tables) == 2:
        out = global_reference.rel_pos_attention(query, key, value, *tables)
    else:
        logits = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
        out = (logits + bias_of_distances(tables[0], window)).softmax(3) @ value
    return join_windows(out.transpose(1, 2).flatten(2), grid, window).to(qkv.dtype)


def cut_windows(x: Tensor, padding: Tensor, window: int) -> Tensor:
    """x (n, H, W, C), padding (C,) -> (n * rows * columns, window ** 2, C), filled up right and below."""
    height, width, channels = x.shape[1:]
    down, right = -height % window, -width % window
    outside = torch.ones(height + down, width + right, 1, dtype=torch.bool, device=x.device)
    outside[:height, :width] = False
    x = torch.where(outside, padding, F.pad(x, (0, 0, 0, right, 0, down)))
    x = torch.unflatten(torch.unflatten(x, 2, (-1, window)), 1, (-1, window))  # (n, rows, window, columns, window, C)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def join_windows(windows: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """Undo `cut_windows`: (n * rows * columns, window ** 2, C) -> (n, H, W, C), without what filled windows up."""
    height, width = grid
    rows, columns = -(-height // window), -(-width // window)
    x = windows.reshape(-1, rows, columns, window, window, windows.shape[2]).transpose(2, 3)
    return x.reshape(-1, rows * window, columns * window, windows.shape[2])[:, :height, :width]


def split_heads(qkv: Tensor, num_heads: int, heads_first: bool) -> tuple[Tensor, Tensor, Tensor]:
    """qkv (windows, tokens, 3 * heads * dim) -> query, key, value (windows, heads, tokens, dim)."""
    if heads_first:
        query, key, value = torch.unflatten(qkv, 2, (num_heads, 3, -1)).permute(3, 0, 2, 1, 4)
    else:
        query, key, value = torch.unflatten(qkv, 2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    return query, key, value


def bias_of_distances(table: Tensor, window: int) -> Tensor:
    """table (heads, window ** 2) -> (heads, window ** 2, window ** 2): the bias of each query and key."""
    return table[:, distance_index(window, table.device)]


def distance_index(window: int, device: torch.device) -> Tensor:
    """|dy| * window + |dx| of each query and key of a window, (window ** 2, window ** 2) int64."""
    places = torch.arange(window * window, device=device)
    y, x = places // window, places % window
    return (y[:, None] - y).abs() * window + (x[:, None] - x).abs()
