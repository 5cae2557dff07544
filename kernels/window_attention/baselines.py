"""What `window_attention` is measured against: the same function of the same arguments by other means.

All cut windows out of the map, filled up, and put them together again, which the kernel does not. They compute in the
dtype of their arguments, which are those of `window_attention`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from sam_edge.kernels.rel_pos_attention.baselines import BASELINES as GLOBAL_BASELINES
from sam_edge.kernels.window_attention.reference import bias_of_distances, cut_windows, join_windows, split_heads

__all__ = ["BASELINES", "TABLES_ONLY"]

Attend = Callable[[Tensor, Tensor, Tensor, tuple[Tensor, ...], int], Tensor]


def _in_windows(attend: Attend) -> Callable[..., Tensor]:
    """A baseline from how it attends to (windows, heads, tokens, dim) with some bias."""

    def run(
        qkv: Tensor, padding: Tensor, bias: tuple[Tensor, ...], window: int, num_heads: int, heads_first: bool = False
    ) -> Tensor:
        grid = qkv.shape[1], qkv.shape[2]
        query, key, value = split_heads(cut_windows(qkv, padding, window), num_heads, heads_first)
        out = attend(query, key, value, bias, window)
        return join_windows(out.transpose(1, 2).flatten(2), grid, window)

    return run


def _eager(query: Tensor, key: Tensor, value: Tensor, bias: tuple[Tensor, ...], window: int) -> Tensor:
    if len(bias) == 2:
        return GLOBAL_BASELINES["eager"](query, key, value, *bias)
    logits: Tensor = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
    return (logits + bias_of_distances(bias[0], window)).softmax(3) @ value


def _sdpa(query: Tensor, key: Tensor, value: Tensor, bias: tuple[Tensor, ...], window: int) -> Tensor:
    if len(bias) == 2:
        return GLOBAL_BASELINES["sdpa with bias"](query, key, value, *bias)
    mask = bias_of_distances(bias[0], window).unsqueeze(0)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def _with_tables(name: str) -> Attend:
    """A baseline of `rel_pos_attention`: for SAM's bias only."""
    return lambda query, key, value, bias, _: GLOBAL_BASELINES[name](query, key, value, *bias)


BASELINES: dict[str, Callable[..., Tensor]] = {
    "eager": _in_windows(_eager),
    "sdpa with bias": _in_windows(_sdpa),
    "flex": _in_windows(_with_tables("flex")),
    "concatenated": _in_windows(_with_tables("concatenated")),
}
TABLES_ONLY = ("flex", "concatenated")  # not for TinyViT's learned bias
