"""What `rel_pos_attention` is measured against: the same function of the same tensors by other means.

Each takes query, key, value (n, heads, H * W, dim), table_h (2 * H - 1, dim), table_w (2 * W - 1, dim) and returns
(n, heads, H * W, dim), all in one dtype. Unlike `reference.py` they compute in that dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from sam_edge.kernels.rel_pos_attention.reference import relative_position_terms

__all__ = ["BASELINES", "concatenated", "eager", "flex", "sdpa_with_bias"]


def eager(query: Tensor, key: Tensor, value: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """As segment-anything has it: the logits, the bias and the weights as matrices of all pairs of tokens."""
    rows, columns = relative_position_terms(query, table_h, table_w)
    logits = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
    logits = torch.unflatten(logits, 3, (rows.shape[3], columns.shape[3])) + rows.unsqueeze(4) + columns.unsqueeze(3)
    return logits.flatten(3).softmax(3) @ value


def sdpa_with_bias(query: Tensor, key: Tensor, value: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """torch's fused attention with the bias as a matrix of all pairs of tokens: heads x 4096 x 4096 for SAM."""
    rows, columns = relative_position_terms(query, table_h, table_w)
    bias = (rows.unsqueeze(4) + columns.unsqueeze(3)).flatten(3)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def flex(query: Tensor, key: Tensor, value: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """FlexAttention whose score_mod looks both terms up. To be measured under torch.compile, for which it is made."""
    rows, columns = relative_position_terms(query, table_h, table_w)
    width = columns.shape[3]

    def add_bias(score: Tensor, image: Tensor, head: Tensor, token: Tensor, other: Tensor) -> Tensor:
        return score + rows[image, head, token, other // width] + columns[image, head, token, other % width]

    return flex_attention(query, key, value, score_mod=add_bias)


def concatenated(query: Tensor, key: Tensor, value: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """Exact plain attention: [q / sqrt(dim) | rows | columns] times [k | one-hot row | one-hot column].

    The bias has rank at most H + W, so it fits into the head's width: 64 + 64 + 64 for SAM-B and -L, which cuDNN's and
    FlashAttention's kernels take. Values are padded with zeros to that width, as FlashAttention wants it.
    """
    rows, columns = relative_position_terms(query, table_h, table_w)
    dim, height, width = query.shape[3], rows.shape[3], columns.shape[3]
    place = torch.arange(height * width, device=query.device)
    one_hot = torch.cat((F.one_hot(place // width, height), F.one_hot(place % width, width)), dim=1).to(key.dtype)
    wide_query = torch.cat((query * dim**-0.5, rows, columns), dim=3)
    wide_key = torch.cat((key, one_hot.expand(*key.shape[:2], -1, -1)), dim=3)
    wide_value = F.pad(value, (0, height + width))
    return F.scaled_dot_product_attention(wide_query, wide_key, wide_value, scale=1.0)[..., :dim]


BASELINES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "eager": eager,
    "sdpa with bias": sdpa_with_bias,
    "flex": flex,
    "concatenated": concatenated,
}
