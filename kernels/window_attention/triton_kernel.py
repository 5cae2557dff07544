"""Windowed attention on the GPU, straight from the map of queries, keys and values. The README has the maths.

No window is ever copied: a program finds its tokens by their place in the map, and what lies beyond the map's edge it
makes of one vector. Logits are float32, in units of log2(e).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam_edge.kernels.launch import Launch, head_split, interpreted
from sam_edge.kernels.triton_blocks import LOG2_E, dot, dot_heads, fill_heads, load_heads, store_heads

__all__ = ["forward"]


@triton.jit
def _distance_terms(q0, q1, table_ptr, DISTANCES: tl.constexpr, WINDOW: tl.constexpr, D0: tl.constexpr,
                    D1: tl.constexpr, IN_FLOAT32: tl.constexpr):  # fmt: skip
    """log2(e) times each query's product with each row of a table (2 * WINDOW - 1, D0 + D1): (M, DISTANCES)."""
    distance = tl.arange(0, DISTANCES)
    t0, t1 = load_heads(table_ptr, distance, D0 + D1, distance < 2 * WINDOW - 1, D0, D1)
    return dot_heads(q0, q1, t0, t1, D1, IN_FLOAT32) * LOG2_E


@triton.jit
def _look_up(terms, place, other, M: tl.constexpr, N: tl.constexpr, WINDOW: tl.constexpr):
    """terms (M, DISTANCES) at the distances from N places of keys to M places of queries; -inf beyond the window."""
    index = tl.minimum(tl.maximum(place[:, None] - other[None, :] + WINDOW - 1, 0), 2 * WINDOW - 2)
    return tl.where(other[None, :] < WINDOW, tl.gather(terms, index, 1), float("-inf"))


@triton.jit
def _forward_kernel(
    qkv_ptr, padding_ptr, table_h_ptr, table_w_ptr, out_ptr, stride_n, stride_y, stride_x, part_stride, head_stride,
    height, width, windows_down, windows_across, num_heads, scale_log2,
    WINDOW: tl.constexpr, DISTANCES: tl.constexpr, REL_POS: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr,
    BLOCK_M: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr, IN_FLOAT32: tl.constexpr,
):  # fmt: skip
    """A tile of queries of one window and head. REL_POS: two tables of SAM; otherwise table_h_ptr is TinyViT's."""
    tiles: tl.constexpr = (WINDOW * WINDOW + BLOCK_M - 1) // BLOCK_M
    window_id = tl.program_id(0) // tiles
    first_query = tl.program_id(0) % tiles * BLOCK_M
    head = tl.program_id(1)
    image = window_id // (windows_down * windows_across)
    top = window_id // windows_across % windows_down * WINDOW
    left = window_id % windows_across * WINDOW
    if top + first_query // WINDOW >= height:  # all of these queries lie below the map
        return

    qkv_ptr += image.to(tl.int64) * stride_n + head * head_stride
    padding_ptr += head * head_stride
    query = first_query + tl.arange(0, BLOCK_M)
    query_row, query_column = query // WINDOW, query % WINDOW
    y, x = top + query_row, left + query_column
    wanted = (query < WINDOW * WINDOW) & (y < height) & (x < width)
    q0, q1 = load_heads(qkv_ptr, y * stride_y + x * stride_x, 1, wanted, D0, D1)

    columns = tl.arange(0, TILE_COLUMNS)
    if REL_POS:
        by_row = _distance_terms(q0, q1, table_h_ptr, DISTANCES, WINDOW, D0, D1, IN_FLOAT32)
        by_column = _distance_terms(q0, q1, table_w_ptr, DISTANCES, WINDOW, D0, D1, IN_FLOAT32)
        column_terms = _look_up(by_column, query_column, columns, BLOCK_M, TILE_COLUMNS, WINDOW)
    acc0 = tl.zeros((BLOCK_M, D0), tl.float32)
    acc1 = tl.zeros((BLOCK_M, D1 if D1 > 0 else 1), tl.float32)
    largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    place = tl.arange(0, TILE_ROWS * TILE_COLUMNS)
    key_column = place % TILE_COLUMNS

    for first_row in range(0, WINDOW, TILE_ROWS):
        key_row = first_row + place // TILE_COLUMNS
        in_window = (key_row < WINDOW) & (key_column < WINDOW)
        key_y, key_x = top + key_row, left + key_column
        on_map = in_window & (key_y < height) & (key_x < width)
        offsets = key_y * stride_y + key_x * stride_x
        k0, k1 = load_heads(qkv_ptr + part_stride, offsets, 1, on_map, D0, D1)
        k0, k1 = fill_heads(k0, k1, on_map, padding_ptr + part_stride, D0, D1)
        logits = dot_heads(q0, q1, k0, k1, D1, IN_FLOAT32) * scale_log2
        if REL_POS:
            row_terms = _look_up(by_row, query_row, first_row + tl.arange(0, TILE_ROWS), BLOCK_M, TILE_ROWS, WINDOW)
            logits = tl.reshape(logits, (BLOCK_M, TILE_ROWS, TILE_COLUMNS))
            logits += row_terms[:, :, None] + column_terms[:, None, :]
            logits = tl.reshape(logits, (BLOCK_M, TILE_ROWS * TILE_COLUMNS))
        else:
            apart_y = tl.abs(query_row[:, None] - key_row[None, :])
            apart_x = tl.abs(query_column[:, None] - key_column[None, :])
            known = in_window[None, :] & (query < WINDOW * WINDOW)[:, None]
            entry = head * WINDOW * WINDOW + apart_y * WINDOW + apart_x
            bias = tl.load(table_h_ptr + entry, mask=known, other=0.0).to(tl.float32) * LOG2_E
            logits = tl.where(in_window[None, :], logits + bias, float("-inf"))

        # A tile's first place is in the window: every query has a finite logit in it, and no maximum is -inf.
        new_largest = tl.maximum(largest, tl.max(logits, 1))
        weights = tl.exp2(logits - new_largest[:, None])
        shrink = tl.exp2(largest - new_largest)
        largest = new_largest
        total = total * shrink + tl.sum(weights, 1)
        v0, v1 = load_heads(qkv_ptr + 2 * part_stride, offsets, 1, on_map, D0, D1)
        v0, v1 = fill_heads(v0, v1, on_map, padding_ptr + 2 * part_stride, D0, D1)
        acc0 = dot(weights.to(v0.dtype), v0, acc0 * shrink[:, None], IN_FLOAT32)
        if D1 > 0:
            acc1 = dot(weights.to(v1.dtype), v1, acc1 * shrink[:, None], IN_FLOAT32)

    token = (image.to(tl.int64) * height + y) * width + x
    stride_token = num_heads * (D0 + D1)
    store_heads(out_ptr + head * (D0 + D1), token, stride_token, wanted, acc0 / total[:, None], acc1 / total[:, None],
                D0, D1)  # fmt: skip


def forward(
    qkv: Tensor,
    padding: Tensor,
    bias: tuple[Tensor, ...],
    window: int,
    num_heads: int,
    heads_first: bool,
    launch: Launch,
) -> Tensor:
    """As `reference.window_attention`; qkv's last axis, padding and tables must be contiguous -> (n, H, W, C)."""
    n, height, width, channels = qkv.shape
    dim = channels // (3 * num_heads)
    part_stride, head_stride = (dim, 3 * dim) if heads_first else (num_heads * dim, dim)
    down, across = triton.cdiv(height, window), triton.cdiv(width, window)
    out = torch.empty(n, height, width, num_heads * dim, dtype=qkv.dtype, device=qkv.device)
    d0, d1 = head_split(dim)
    columns = max(8, triton.next_power_of_2(window))  # one tile across
    block_n = max(launch.block_n, columns)
    _forward_kernel[n * down * across * triton.cdiv(window * window, launch.block_m), num_heads](
        qkv, padding, bias[0], bias[-1], out, *qkv.stride()[:3], part_stride, head_stride,
        height, width, down, across, num_heads, LOG2_E.value * dim**-0.5,
        WINDOW=window, DISTANCES=max(16, triton.next_power_of_2(2 * window - 1)), REL_POS=len(bias) == 2, D0=d0, D1=d1,
        BLOCK_M=launch.block_m, TILE_ROWS=block_n // columns, TILE_COLUMNS=columns, IN_FLOAT32=interpreted(),
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    return out
