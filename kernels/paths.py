"""Which of the attention paths a model's block takes, for what it has at hand."""

from __future__ import annotations

import torch
from torch import Tensor

from sam_edge.kernels.rel_pos_attention import supports as supports_global
from sam_edge.kernels.support import Support, choose_path
from sam_edge.kernels.window_attention import supports as supports_windows

__all__ = ["choose_global_path", "choose_window_path"]


def choose_global_path(
    attention: str, query: Tensor, key: Tensor, value: Tensor, table_h: Tensor, table_w: Tensor
) -> str:
    """ "triton", "sdpa" or "reference" for one of ATTENTION_PATHS; shapes as in `rel_pos_attention`.

    Raises RuntimeUnavailable where "triton" is asked for and cannot run.
    """
    tensors = query, key, value, table_h.to(query.dtype), table_w.to(query.dtype)
    return choose_path(attention, "global attention", query.device, lambda: supports_global(*tensors))


def choose_window_path(attention: str, x: Tensor, window: int, num_heads: int, learned: bool = False) -> str:
    """The same for attention within windows of a map x (n, H, W, C), before its qkv layer has run.

    learned: TinyViT's bias, otherwise SAM's two tables.
    """

    def support() -> Support:
        kind = x.device.type  # autocast decides what a linear layer returns
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        nothing = x.new_empty((), dtype=dtype)  # stands for tensors that are not there yet, without their memory
        channels = x.shape[3]
        shapes = [(num_heads, window**2)] if learned else [(2 * window - 1, channels // num_heads)] * 2
        bias = tuple(nothing.expand(shape) for shape in shapes)
        qkv = nothing.expand(*x.shape[:3], 3 * channels)
        return supports_windows(qkv, nothing.expand(3 * channels), bias, window, num_heads)

    return choose_path(attention, "windowed attention", x.device, support)
