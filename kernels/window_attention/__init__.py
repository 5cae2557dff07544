"""Attention within windows of a map, from the map itself: SAM's windowed blocks and TinyViT's.

`window_attention` is the op, `supports` says whether the kernel takes some tensors, `reference.py` is the contract,
`triton_kernel.py` the GPU's code. README.md has the maths and the traffic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sam_edge.errors import RuntimeUnavailable
from sam_edge.kernels.launch import generation_of, launch_for, on_device_of
from sam_edge.kernels.rel_pos_attention.reference import distances
from sam_edge.kernels.support import MAX_GRID, Support, supports_tensors
from sam_edge.kernels.window_attention import reference

__all__ = ["supports", "window_attention"]

MAX_WINDOW = 32  # a tile of keys is as wide as a window


def window_attention(
    qkv: Tensor, padding: Tensor, bias: tuple[Tensor, ...], window: int, num_heads: int, heads_first: bool = False
) -> Tensor:
    """Attention within windows of window x window tokens of a map; differentiable in all tensors.

    qkv (n, H, W, 3 * C), any strides: what the qkv layer gives for the whole map, channels in the order (3, heads, dim)
    as SAM's or, `heads_first`, (heads, 3, dim) as TinyViT's. padding (3 * C,): what that layer gives for a place that
    fills a window up beyond the map's edge. bias: SAM's tables (2 * window - 1, dim) twice, for rows and columns, or
    TinyViT's (heads, window ** 2), once. float16, bfloat16 or float32, all the same -> (n, H, W, C) in that dtype.
    Where `supports` says no, `reference.py` computes it.
    """
    if not supports(qkv, padding, bias, window, num_heads):
        return reference.window_attention(qkv, padding, bias, window, num_heads, heads_first)
    arguments = qkv, padding, list(bias), window, num_heads, heads_first
    return torch.ops.sam_edge.window_attention(*arguments)  # type: ignore[no-any-return]


def supports(qkv: Tensor, padding: Tensor, bias: tuple[Tensor, ...], window: int, num_heads: int) -> Support:
    """Whether the kernel takes these arguments (shapes in `window_attention`), and why not."""
    if qkv.dim() != 4 or qkv.shape[3] % (3 * num_heads) or padding.shape != qkv.shape[3:]:
        return Support(
            f"qkv and padding have shapes {tuple(qkv.shape)} and {tuple(padding.shape)}, expected (n, H, W, 3 * C) and "
            f"(3 * C,) with C a multiple of {num_heads} heads."
        )
    if not 2 <= window <= MAX_WINDOW:
        return Support(f"windows are {window} x {window}, expected 2 to {MAX_WINDOW}. Use attention='sdpa'.")
    dim = qkv.shape[3] // (3 * num_heads)
    wanted = (num_heads, window * window) if len(bias) == 1 else (2 * window - 1, dim)
    if len(bias) not in (1, 2) or any(tuple(table.shape) != wanted for table in bias):
        return Support(
            f"bias has shapes {[tuple(table.shape) for table in bias]}, expected ({2 * window - 1}, {dim}) twice or "
            f"({num_heads}, {window * window}) once."
        )
    if num_heads > MAX_GRID:
        return Support(f"there are {num_heads} heads, expected at most {MAX_GRID}.")
    tables = {f"bias[{index}]": table for index, table in enumerate(bias)}
    return supports_tensors(dim, qkv=qkv, padding=padding, **tables)


@torch.library.custom_op(
    "sam_edge::window_attention",
    mutates_args=(),
    schema="(Tensor qkv, Tensor padding, Tensor[] bias, int window, int num_heads, bool heads_first) -> Tensor",
)
def _forward(
    qkv: Tensor, padding: Tensor, bias: list[Tensor], window: int, num_heads: int, heads_first: bool
) -> Tensor:
    generation = generation_of(qkv.device)
    if generation is None:
        raise RuntimeUnavailable(
            f"sam_edge::window_attention got tensors on {qkv.device}, expected a GPU that supports() accepts. A graph "
            f"that holds this op runs there only; build it with attention='sdpa' for other devices."
        )
    from sam_edge.kernels.window_attention import triton_kernel

    launch = launch_for("window_attention", generation, qkv.dtype, qkv.shape[3] // (3 * num_heads))
    qkv = qkv if qkv.stride(3) == 1 else qkv.contiguous()
    tables = tuple(table.contiguous() for table in bias)
    with on_device_of(qkv):
        return triton_kernel.forward(qkv, padding.contiguous(), tables, window, num_heads, heads_first, launch)


@_forward.register_fake
def _forward_fake(
    qkv: Tensor, padding: Tensor, bias: list[Tensor], window: int, num_heads: int, heads_first: bool
) -> Tensor:
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, padding, bias, *ctx.sizes = inputs
    ctx.save_for_backward(qkv, padding, *bias)


def _gradients(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    """By hand, in torch and float32: the weights of each window again, as a matrix of its pairs of tokens."""
    qkv, padding, *bias = ctx.saved_tensors
    window, num_heads, heads_first = ctx.sizes
    grid, width = (qkv.shape[1], qkv.shape[2]), grad_out.shape[3]
    windows = reference.cut_windows(qkv.float(), padding.float(), window)
    query, key, value = reference.split_heads(windows, num_heads, heads_first)  # (windows, heads, tokens, dim)
    scale = query.shape[3] ** -0.5
    tables = [table.float() for table in bias]
    logits = query @ key.transpose(2, 3) * scale
    places = torch.unflatten(query, 2, (window, window))
    index = distances(window, qkv.device)
    if len(tables) == 2:
        rel_h, rel_w = (table[index] for table in tables)  # (window, window, dim)
        rows, columns = torch.einsum("nhyxd,ykd->nhyxk", places, rel_h), torch.einsum("nhyxd,xkd->nhyxk", places, rel_w)
        logits = logits + (rows.unsqueeze(5) + columns.unsqueeze(4)).flatten(4).flatten(2, 3)
    else:
        logits = logits + reference.bias_of_distances(tables[0], window)
    weights = logits.softmax(3)
    grad = reference.cut_windows(grad_out.float(), grad_out.new_zeros(width, dtype=torch.float32), window)
    grad = torch.unflatten(grad, 2, (num_heads, -1)).transpose(1, 2)
    grad_logits = grad @ value.transpose(2, 3)
    grad_logits = weights * (grad_logits - (weights * grad_logits).sum(3, keepdim=True))
    grad_query = grad_logits @ key * scale
    if len(tables) == 2:
        by_place = torch.unflatten(torch.unflatten(grad_logits, 3, (window, window)), 2, (window, window))
        grad_rows, grad_columns = by_place.sum(5), by_place.sum(4)  # (windows, heads, y, x, key's row or column)
        terms = torch.einsum("nhyxk,ykd->nhyxd", grad_rows, rel_h) + torch.einsum(
            "nhyxk,xkd->nhyxd", grad_columns, rel_w
        )
        grad_query = grad_query + terms.flatten(2, 3)
        pairs = (torch.einsum("nhyxk,nhyxd->ykd", grad_rows, places),
                 torch.einsum("nhyxk,nhyxd->xkd", grad_columns, places))  # fmt: skip
        grad_tables = [torch.zeros_like(table).index_add(0, index.flatten(), pair.flatten(0, 1))
                       for table, pair in zip(tables, pairs, strict=True)]  # fmt: skip
    else:
        flat = reference.distance_index(window, qkv.device).flatten()
        grad_tables = [torch.zeros_like(tables[0]).index_add(1, flat, grad_logits.sum(0).flatten(1))]
    grads = (grad_query, grad_logits.transpose(2, 3) @ query * scale, weights.transpose(2, 3) @ grad)
    # (windows, tokens, heads, 3, dim) or (windows, tokens, 3, heads, dim)
    by_token = torch.stack([part.transpose(1, 2) for part in grads], dim=3 if heads_first else 2)
    grad_windows = by_token.flatten(2)  # (windows, tokens, 3 * C)
    on_map = grad_windows.new_ones(qkv.shape[0], *grid, 1)
    outside = reference.cut_windows(on_map, on_map.new_zeros(1), window) == 0
    return (
        reference.join_windows(grad_windows, grid, window).to(qkv.dtype),
        (grad_windows * outside).sum((0, 1)).to(padding.dtype),
        [table.to(bias[0].dtype) for table in grad_tables],
        None,
        None,
        None,
    )


_forward.register_autograd(_gradients, setup_context=_keep)
