"""Attention over a grid of tokens with decomposed relative positions: SAM's global blocks.

`rel_pos_attention` is the op, `supports` says whether the kernel takes some tensors, `reference.py` is the contract,
`triton_kernel.py` the GPU's code, `baselines.py` what it is measured against. README.md has the maths and the traffic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sam_edge.errors import RuntimeUnavailable
from sam_edge.kernels.launch import generation_of, launch_for, on_device_of
from sam_edge.kernels.rel_pos_attention import reference
from sam_edge.kernels.support import MAX_GRID, Support, supports_tensors

__all__ = ["rel_pos_attention", "supports"]


def rel_pos_attention(query: Tensor, key: Tensor, value: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(dim) + row term + column term) value; differentiable in all arguments.

    query, key, value (n, heads, H * W, dim), any strides; table_h (2 * H - 1, dim), table_w (2 * W - 1, dim): a row a
    distance between query and key, as SAM's rel_pos_h and rel_pos_w. float16, bfloat16 or float32, all the same
    -> (n, heads, H * W, dim) in that dtype. Where `supports` says no, `reference.py` computes it.
    """
    if not supports(query, key, value, table_h, table_w):
        return reference.rel_pos_attention(query, key, value, table_h, table_w)
    out, _ = torch.ops.sam_edge.rel_pos_attention(query, key, value, table_h, table_w)
    return out.transpose(1, 2)  # type: ignore[no-any-return]


def supports(query: Tensor, key: Tensor, value: Tensor, table_h: Tensor, table_w: Tensor) -> Support:
    """Whether the kernel takes these tensors (shapes in `rel_pos_attention`), and why not."""
    if query.dim() != 4 or key.shape != query.shape or value.shape != query.shape:
        return Support(
            f"query, key, value have shapes {tuple(query.shape)}, {tuple(key.shape)}, {tuple(value.shape)}, expected "
            f"(n, heads, tokens, dim) three times."
        )
    n, heads, num_tokens, dim = query.shape
    for name, table in (("table_h", table_h), ("table_w", table_w)):
        if table.dim() != 2 or table.shape[0] % 2 == 0 or table.shape[1] != dim:
            return Support(f"{name} has shape {tuple(table.shape)}, expected (2 * length - 1, {dim}).")
    height, width = (table_h.shape[0] + 1) // 2, (table_w.shape[0] + 1) // 2
    if num_tokens != height * width:
        return Support(f"there are {num_tokens} tokens, expected {height} x {width} as the tables have.")
    if n * heads > MAX_GRID:
        return Support(f"there are {n} x {heads} heads, expected at most {MAX_GRID} in one call. Use smaller batches.")
    return supports_tensors(dim, query=query, key=key, value=value, table_h=table_h, table_w=table_w)


# Schemas are written out: the op returns attention (n, tokens, heads, dim) and the logsumexp that its backward needs.
@torch.library.custom_op(
    "sam_edge::rel_pos_attention",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, Tensor table_h, Tensor table_w) -> (Tensor, Tensor)",
)
def _forward(query: Tensor, key: Tensor, value: Tensor, table_h: Tensor, table_w: Tensor) -> tuple[Tensor, Tensor]:
    generation = _generation(query)
    from sam_edge.kernels.rel_pos_attention import triton_kernel

    launch = launch_for("rel_pos_attention", generation, query.dtype, query.shape[3])
    packed = _packed(query), _packed(key), _packed(value)
    with on_device_of(query):
        return triton_kernel.forward(*packed, table_h.contiguous(), table_w.contiguous(), launch)


@_forward.register_fake
def _forward_fake(query: Tensor, key: Tensor, value: Tensor, table_h: Tensor, table_w: Tensor) -> tuple[Tensor, Tensor]:
    n, heads, num_tokens, dim = query.shape
    return (
        query.new_empty(n, num_tokens, heads, dim),
        query.new_empty(n * heads, num_tokens, dtype=torch.float32),
    )


@torch.library.custom_op(
    "sam_edge::rel_pos_attention_backward",
    mutates_args=(),
    schema="(Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor table_h, Tensor table_w, Tensor out, "
    "Tensor logsumexp) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, table_h: Tensor, table_w: Tensor,
    out: Tensor, logsumexp: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    generation = _generation(query)
    from sam_edge.kernels.rel_pos_attention import triton_kernel

    launch = launch_for("rel_pos_attention_backward", generation, query.dtype, query.shape[3])
    tables = table_h.contiguous(), table_w.contiguous()
    packed = _packed(query), _packed(key), _packed(value)
    with on_device_of(query):
        return triton_kernel.backward(grad_out, *packed, *tables, out, logsumexp, launch)


@_backward.register_fake
def _backward_fake(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, table_h: Tensor, table_w: Tensor,
    out: Tensor, logsumexp: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    n, heads, num_tokens, dim = query.shape
    grads = [query.new_empty(n, num_tokens, heads, dim, dtype=torch.float32) for _ in range(3)]
    height, width = (table_h.shape[0] + 1) // 2, (table_w.shape[0] + 1) // 2
    rows = query.new_empty(n * heads, height, num_tokens, dtype=torch.float32)
    columns = query.new_empty(n * heads, width, num_tokens, dtype=torch.float32)
    return grads[0], grads[1], grads[2], rows, columns


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, *output)


def _gradients(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    """The kernels' gradients, and those of the terms taken back to the query and the tables: small products."""
    query, key, value, table_h, table_w, out, logsumexp = ctx.saved_tensors
    grad_q, grad_k, grad_v, grad_rows, grad_columns = torch.ops.sam_edge.rel_pos_attention_backward(
        grad_out, query, key, value, table_h, table_w, out, logsumexp
    )
    height, width = (table_h.shape[0] + 1) // 2, (table_w.shape[0] + 1) // 2
    grid = torch.unflatten(query.float(), 2, (height, width)).flatten(0, 1)  # (n * heads, H, W, dim)
    grad_rows = torch.unflatten(grad_rows, 2, (height, width))  # (n * heads, key's row, H, W)
    grad_columns = torch.unflatten(grad_columns, 2, (height, width))
    rel_h, rel_w = (table.float()[reference.distances(size, table.device)] for table, size in
                    ((table_h, height), (table_w, width)))  # fmt: skip
    from_terms = torch.einsum("bkyx,ykd->byxd", grad_rows, rel_h) + torch.einsum("bkyx,xkd->byxd", grad_columns, rel_w)
    grad_q = grad_q.transpose(1, 2) + from_terms.reshape(query.shape)
    return (
        grad_q.to(query.dtype),
        grad_k.transpose(1, 2).to(key.dtype),
        grad_v.transpose(1, 2).to(value.dtype),
        _by_distance(torch.einsum("bkyx,byxd->ykd", grad_rows, grid)).to(table_h.dtype),
        _by_distance(torch.einsum("bkyx,byxd->xkd", grad_columns, grid)).to(table_w.dtype),
    )


_forward.register_autograd(_gradients, setup_context=_keep)


def _by_distance(pairs: Tensor) -> Tensor:
    """Sum (length, length, dim), a row a pair of places, to (2 * length - 1, dim), a row a distance."""
    length, _, dim = pairs.shape
    index = reference.distances(length, pairs.device).flatten()
    return pairs.new_zeros(2 * length - 1, dim).index_add(0, index, pairs.flatten(0, 1))


def _generation(query: Tensor) -> str:
    generation: str | None = generation_of(query.device)
    if generation is None:
        raise RuntimeUnavailable(
            f"sam_edge::rel_pos_attention got tensors on {query.device}, expected a GPU that supports() accepts. A "
            f"graph that holds this op runs there only; build it with attention='sdpa' for other devices."
        )
    return generation


def _packed(x: Tensor) -> Tensor:
    """The kernel takes any strides but that of the last axis."""
    return x if x.stride(-1) == 1 else x.contiguous()
