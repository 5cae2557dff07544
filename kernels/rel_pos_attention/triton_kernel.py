"""Attention with decomposed relative positions on the GPU: terms, forward and backward. The README has the maths.

Logits are kept in float32 and in units of log2(e), so that the softmax is one exp2. Keys are cut into tiles of
TILE_ROWS x TILE_COLUMNS places of the grid, not into runs of tokens: within a tile the bias is a row term plus a column
term, two small tiles that broadcasting adds.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam_edge.kernels.launch import Launch, head_split, interpreted, tile_shape
from sam_edge.kernels.triton_blocks import LOG2_E, dot, dot_heads, load_heads, store_heads

__all__ = ["backward", "forward"]

TERMS_BLOCK = 64  # tokens, and distances, of a tile in _terms_kernel


@triton.jit
def _terms_kernel(
    query_ptr, table_ptr, terms_ptr, stride_n, stride_head, stride_token, num_heads, grid_width, num_tokens, length,
    BY_ROW: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, BLOCK: tl.constexpr, IN_FLOAT32: tl.constexpr,
):  # fmt: skip
    """terms[image and head, key's place on the axis, token] = log2(e) * query[token] . table[distance]."""
    image_head = tl.program_id(1).to(tl.int64)
    query_ptr += image_head // num_heads * stride_n + image_head % num_heads * stride_head
    terms_ptr += image_head * length * num_tokens
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = token < num_tokens
    q0, q1 = load_heads(query_ptr, token, stride_token, inside, D0, D1)
    if BY_ROW:  # noqa: SIM108
        place = token // grid_width
    else:
        place = token % grid_width
    # The distances of this tile's queries to all keys: place - key + length - 1.
    nearest = tl.min(tl.where(inside, place, length))
    farthest = tl.max(tl.where(inside, place, 0)) + length
    for start in range(nearest, farthest, BLOCK):
        distance = start + tl.arange(0, BLOCK)
        t0, t1 = load_heads(table_ptr, distance, D0 + D1, distance < 2 * length - 1, D0, D1)
        products = dot_heads(t0, t1, q0, q1, D1, IN_FLOAT32) * LOG2_E  # (distances, tokens)
        key = place[None, :] + length - 1 - distance[:, None]
        wanted = (key >= 0) & (key < length) & inside[None, :]
        tl.store(terms_ptr + key.to(tl.int64) * num_tokens + token[None, :], products, mask=wanted)


@triton.jit
def _load_terms(ptr, places, length, token, inside, num_tokens):
    """A tile (tokens, places) of terms: -inf where a place is outside of the grid, 0 where only a token is."""
    on_grid = places < length
    offsets = places.to(tl.int64)[None, :] * num_tokens + token[:, None]
    terms = tl.load(ptr + offsets, mask=on_grid[None, :] & inside[:, None], other=0.0)
    return tl.where(on_grid[None, :], terms, float("-inf"))


@triton.jit
def _logits_without_row_terms(
    q0, q1, k0, k1, column_terms, scale_log2,
    D1: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, IN_FLOAT32: tl.constexpr,
):  # fmt: skip
    """A tile's logits (M, ROWS, COLUMNS), with column_terms (M, COLUMNS). Row terms are cheaper to add later."""
    products = dot_heads(q0, q1, k0, k1, D1, IN_FLOAT32) * scale_log2
    return tl.reshape(products, (M, ROWS, COLUMNS)) + column_terms[:, None, :]


@triton.jit
def _weights(logits, row_terms, normaliser, M: tl.constexpr, N: tl.constexpr):
    """2 ** (logits (M, ROWS, COLUMNS) + row_terms (M, ROWS) - normaliser (M,)): (M, N).

    A row's term joins what is subtracted from all of the row's logits: no addition for each of them.
    """
    return tl.reshape(tl.exp2(logits + (row_terms - normaliser[:, None])[:, :, None]), (M, N))


@triton.jit
def _forward_kernel(
    query_ptr, key_ptr, value_ptr, rows_ptr, columns_ptr, out_ptr, logsumexp_ptr,
    q_stride_n, q_stride_head, q_stride_token, k_stride_n, k_stride_head, k_stride_token,
    v_stride_n, v_stride_head, v_stride_token, num_heads, height, width, scale_log2,
    D0: tl.constexpr, D1: tl.constexpr, BLOCK_M: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
    IN_FLOAT32: tl.constexpr,
):  # fmt: skip
    """A tile of queries of one head: softmax over all tiles of keys, online (Milakov and Gimelshein, 1805.02867)."""
    num_tokens = height * width
    image_head = tl.program_id(1).to(tl.int64)
    image, head = image_head // num_heads, image_head % num_heads
    query_ptr += image * q_stride_n + head * q_stride_head
    key_ptr += image * k_stride_n + head * k_stride_head
    value_ptr += image * v_stride_n + head * v_stride_head
    rows_ptr += image_head * height * num_tokens
    columns_ptr += image_head * width * num_tokens

    token = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = token < num_tokens
    q0, q1 = load_heads(query_ptr, token, q_stride_token, inside, D0, D1)
    acc0 = tl.zeros((BLOCK_M, D0), tl.float32)
    acc1 = tl.zeros((BLOCK_M, D1 if D1 > 0 else 1), tl.float32)
    largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    place = tl.arange(0, TILE_ROWS * TILE_COLUMNS)

    for first_column in range(0, width, TILE_COLUMNS):
        columns = first_column + tl.arange(0, TILE_COLUMNS)
        column_terms = _load_terms(columns_ptr, columns, width, token, inside, num_tokens)
        key_column = first_column + place % TILE_COLUMNS
        for first_row in range(0, height, TILE_ROWS):
            rows = first_row + tl.arange(0, TILE_ROWS)
            row_terms = _load_terms(rows_ptr, rows, height, token, inside, num_tokens)
            key_row = first_row + place // TILE_COLUMNS
            key = key_row * width + key_column
            on_grid = (key_row < height) & (key_column < width)
            k0, k1 = load_heads(key_ptr, key, k_stride_token, on_grid, D0, D1)
            logits = _logits_without_row_terms(
                q0, q1, k0, k1, column_terms, scale_log2, D1, BLOCK_M, TILE_ROWS, TILE_COLUMNS, IN_FLOAT32
            )

            # A tile's first place is on the grid: every query has a finite logit in it, and no maximum is -inf.
            new_largest = tl.maximum(largest, tl.max(tl.max(logits, 2) + row_terms, 1))
            weights = _weights(logits, row_terms, new_largest, BLOCK_M, TILE_ROWS * TILE_COLUMNS)
            shrink = tl.exp2(largest - new_largest)
            largest = new_largest
            total = total * shrink + tl.sum(weights, 1)
            v0, v1 = load_heads(value_ptr, key, v_stride_token, on_grid, D0, D1)
            acc0 = dot(weights.to(v0.dtype), v0, acc0 * shrink[:, None], IN_FLOAT32)
            if D1 > 0:
                acc1 = dot(weights.to(v1.dtype), v1, acc1 * shrink[:, None], IN_FLOAT32)

    stride_token = num_heads * (D0 + D1)
    out_ptr += image * num_tokens * stride_token + head * (D0 + D1)
    store_heads(out_ptr, token, stride_token, inside, acc0 / total[:, None], acc1 / total[:, None], D0, D1)
    tl.store(logsumexp_ptr + image_head * num_tokens + token, largest + tl.log2(total), mask=inside)


@triton.jit
def _weights_and_gradient(
    q0, q1, k0, k1, do0, do1, v0, v1, row_terms, column_terms, logsumexp, delta, scale_log2,
    D1: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, IN_FLOAT32: tl.constexpr,
):  # fmt: skip
    """A tile's softmax weights, again, and the gradient of its logits (in natural units), both (M, ROWS * COLUMNS)."""
    logits = _logits_without_row_terms(q0, q1, k0, k1, column_terms, scale_log2, D1, M, ROWS, COLUMNS, IN_FLOAT32)
    weights = _weights(logits, row_terms, logsumexp, M, ROWS * COLUMNS)
    gradient = weights * (dot_heads(do0, do1, v0, v1, D1, IN_FLOAT32) - delta[:, None])
    return weights, gradient


@triton.jit
def _query_gradient_kernel(
    query_ptr, key_ptr, value_ptr, rows_ptr, columns_ptr, grad_out_ptr, logsumexp_ptr, delta_ptr,
    grad_query_ptr, grad_rows_ptr, grad_columns_ptr,
    q_stride_n, q_stride_head, q_stride_token, k_stride_n, k_stride_head, k_stride_token,
    v_stride_n, v_stride_head, v_stride_token, num_heads, height, width, scale, scale_log2,
    D0: tl.constexpr, D1: tl.constexpr, BLOCK_M: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
    IN_FLOAT32: tl.constexpr,
):  # fmt: skip
    """A tile of queries of one head: the gradients of the query's products with keys, and of its terms.

    Those of the row terms come as one part per column of tiles, (parts, image and head, height, tokens), to be summed.
    """
    num_tokens = height * width
    image_head = tl.program_id(1).to(tl.int64)
    image, head = image_head // num_heads, image_head % num_heads
    stride_token = num_heads * (D0 + D1)
    packed = image * num_tokens * stride_token + head * (D0 + D1)  # of grad_out and grad_query (n, tokens, heads, dim)
    query_ptr += image * q_stride_n + head * q_stride_head
    key_ptr += image * k_stride_n + head * k_stride_head
    value_ptr += image * v_stride_n + head * v_stride_head
    rows_ptr += image_head * height * num_tokens
    columns_ptr += image_head * width * num_tokens
    grad_rows_ptr += image_head * height * num_tokens
    grad_columns_ptr += image_head * width * num_tokens

    token = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = token < num_tokens
    q0, q1 = load_heads(query_ptr, token, q_stride_token, inside, D0, D1)
    do0, do1 = load_heads(grad_out_ptr + packed, token, stride_token, inside, D0, D1)
    logsumexp = tl.load(logsumexp_ptr + image_head * num_tokens + token, mask=inside, other=float("inf"))
    delta = tl.load(delta_ptr + image_head * num_tokens + token, mask=inside, other=0.0)
    acc0 = tl.zeros((BLOCK_M, D0), tl.float32)
    acc1 = tl.zeros((BLOCK_M, D1 if D1 > 0 else 1), tl.float32)
    place = tl.arange(0, TILE_ROWS * TILE_COLUMNS)

    for first_column in range(0, width, TILE_COLUMNS):
        columns = first_column + tl.arange(0, TILE_COLUMNS)
        column_terms = _load_terms(columns_ptr, columns, width, token, inside, num_tokens)
        grad_columns = tl.zeros((BLOCK_M, TILE_COLUMNS), tl.float32)
        key_column = first_column + place % TILE_COLUMNS
        for first_row in range(0, height, TILE_ROWS):
            rows = first_row + tl.arange(0, TILE_ROWS)
            row_terms = _load_terms(rows_ptr, rows, height, token, inside, num_tokens)
            key_row = first_row + place // TILE_COLUMNS
            key = key_row * width + key_column
            on_grid = (key_row < height) & (key_column < width)
            k0, k1 = load_heads(key_ptr, key, k_stride_token, on_grid, D0, D1)
            v0, v1 = load_heads(value_ptr, key, v_stride_token, on_grid, D0, D1)
            _, gradient = _weights_and_gradient(
                q0, q1, k0, k1, do0, do1, v0, v1, row_terms, column_terms, logsumexp, delta, scale_log2,
                D1, BLOCK_M, TILE_ROWS, TILE_COLUMNS, IN_FLOAT32,
            )  # fmt: skip
            acc0 = dot(gradient.to(k0.dtype), k0, acc0, IN_FLOAT32)
            if D1 > 0:
                acc1 = dot(gradient.to(k1.dtype), k1, acc1, IN_FLOAT32)
            places = tl.reshape(gradient, (BLOCK_M, TILE_ROWS, TILE_COLUMNS))
            grad_columns += tl.sum(places, 1)
            tl.store(
                grad_rows_ptr + rows.to(tl.int64)[None, :] * num_tokens + token[:, None],
                tl.sum(places, 2),
                mask=inside[:, None] & (rows < height)[None, :],
            )
        tl.store(
            grad_columns_ptr + columns.to(tl.int64)[None, :] * num_tokens + token[:, None],
            grad_columns,
            mask=inside[:, None] & (columns < width)[None, :],
        )
        grad_rows_ptr += tl.num_programs(1).to(tl.int64) * height * num_tokens
    store_heads(grad_query_ptr + packed, token, stride_token, inside, acc0 * scale, acc1 * scale, D0, D1)


@triton.jit
def _key_value_gradient_kernel(
    query_ptr, key_ptr, value_ptr, rows_ptr, columns_ptr, grad_out_ptr, logsumexp_ptr, delta_ptr,
    grad_key_ptr, grad_value_ptr,
    q_stride_n, q_stride_head, q_stride_token, k_stride_n, k_stride_head, k_stride_token,
    v_stride_n, v_stride_head, v_stride_token, num_heads, height, width, scale, scale_log2,
    D0: tl.constexpr, D1: tl.constexpr, BLOCK_M: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
    IN_FLOAT32: tl.constexpr,
):  # fmt: skip
    """A tile of keys of one head, over all tiles of queries: the gradients of keys and values."""
    num_tokens = height * width
    image_head = tl.program_id(1).to(tl.int64)
    image, head = image_head // num_heads, image_head % num_heads
    stride_token = num_heads * (D0 + D1)
    packed = image * num_tokens * stride_token + head * (
        D0 + D1
    )  # of grad_out and both results (n, tokens, heads, dim)
    query_ptr += image * q_stride_n + head * q_stride_head
    key_ptr += image * k_stride_n + head * k_stride_head
    value_ptr += image * v_stride_n + head * v_stride_head
    rows_ptr += image_head * height * num_tokens
    columns_ptr += image_head * width * num_tokens

    tiles_across = tl.cdiv(width, TILE_COLUMNS)
    first_row = tl.program_id(0) // tiles_across * TILE_ROWS
    first_column = tl.program_id(0) % tiles_across * TILE_COLUMNS
    place = tl.arange(0, TILE_ROWS * TILE_COLUMNS)
    key_row, key_column = first_row + place // TILE_COLUMNS, first_column + place % TILE_COLUMNS
    key = key_row * width + key_column
    on_grid = (key_row < height) & (key_column < width)
    rows, columns = first_row + tl.arange(0, TILE_ROWS), first_column + tl.arange(0, TILE_COLUMNS)
    k0, k1 = load_heads(key_ptr, key, k_stride_token, on_grid, D0, D1)
    v0, v1 = load_heads(value_ptr, key, v_stride_token, on_grid, D0, D1)
    grad_k0 = tl.zeros((TILE_ROWS * TILE_COLUMNS, D0), tl.float32)
    grad_k1 = tl.zeros((TILE_ROWS * TILE_COLUMNS, D1 if D1 > 0 else 1), tl.float32)
    grad_v0, grad_v1 = grad_k0, grad_k1

    for first_token in range(0, num_tokens, BLOCK_M):
        token = first_token + tl.arange(0, BLOCK_M)
        inside = token < num_tokens
        q0, q1 = load_heads(query_ptr, token, q_stride_token, inside, D0, D1)
        do0, do1 = load_heads(grad_out_ptr + packed, token, stride_token, inside, D0, D1)
        # +inf: the weights of a query outside are 0.
        logsumexp = tl.load(logsumexp_ptr + image_head * num_tokens + token, mask=inside, other=float("inf"))
        delta = tl.load(delta_ptr + image_head * num_tokens + token, mask=inside, other=0.0)
        row_terms = _load_terms(rows_ptr, rows, height, token, inside, num_tokens)
        column_terms = _load_terms(columns_ptr, columns, width, token, inside, num_tokens)
        weights, gradient = _weights_and_gradient(
            q0, q1, k0, k1, do0, do1, v0, v1, row_terms, column_terms, logsumexp, delta, scale_log2,
            D1, BLOCK_M, TILE_ROWS, TILE_COLUMNS, IN_FLOAT32,
        )  # fmt: skip
        weights, gradient = tl.trans(weights.to(do0.dtype)), tl.trans(gradient.to(q0.dtype))
        grad_v0 = dot(weights, do0, grad_v0, IN_FLOAT32)
        grad_k0 = dot(gradient, q0, grad_k0, IN_FLOAT32)
        if D1 > 0:
            grad_v1 = dot(weights, do1, grad_v1, IN_FLOAT32)
            grad_k1 = dot(gradient, q1, grad_k1, IN_FLOAT32)
    store_heads(grad_key_ptr + packed, key, stride_token, on_grid, grad_k0 * scale, grad_k1 * scale, D0, D1)
    store_heads(grad_value_ptr + packed, key, stride_token, on_grid, grad_v0, grad_v1, D0, D1)


def terms(query: Tensor, table: Tensor, width: int, by_row: bool) -> Tensor:
    """query (n, heads, H * W, dim), table (2 * length - 1, dim) -> (n * heads, length, H * W) float32, times log2(e).

    For each token and each place of a key on the axis, the query's product with the table's row of their distance.
    """
    n, heads, num_tokens, dim = query.shape
    length = (len(table) + 1) // 2
    out = torch.empty(n * heads, length, num_tokens, dtype=torch.float32, device=query.device)
    d0, d1 = head_split(dim)
    _terms_kernel[triton.cdiv(num_tokens, TERMS_BLOCK), n * heads](
        query, table, out, *query.stride()[:3], heads, width, num_tokens, length,
        BY_ROW=by_row, D0=d0, D1=d1, BLOCK=TERMS_BLOCK, IN_FLOAT32=interpreted(), num_warps=4,
    )  # fmt: skip
    return out


def forward(
    query: Tensor, key: Tensor, value: Tensor, table_h: Tensor, table_w: Tensor, launch: Launch
) -> tuple[Tensor, Tensor]:
    """query, key, value (n, heads, H * W, dim), last axis contiguous; tables (2 * H - 1, dim) and (2 * W - 1, dim).

    -> attention (n, H * W, heads, dim) in query's dtype, logsumexp (n * heads, H * W) float32 in units of log2(e).
    """
    n, heads, num_tokens, dim = query.shape
    height, width = (len(table_h) + 1) // 2, (len(table_w) + 1) // 2
    rows = terms(query, table_h, width, by_row=True)
    columns = terms(query, table_w, width, by_row=False)
    out = torch.empty(n, num_tokens, heads, dim, dtype=query.dtype, device=query.device)
    logsumexp = torch.empty(n * heads, num_tokens, dtype=torch.float32, device=query.device)
    _forward_kernel[triton.cdiv(num_tokens, launch.block_m), n * heads](
        query, key, value, rows, columns, out, logsumexp,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], heads, height, width, LOG2_E.value * dim**-0.5,
        **_constants(launch, dim, height, width),
    )  # fmt: skip
    return out, logsumexp


def backward(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, table_h: Tensor, table_w: Tensor,
    out: Tensor, logsumexp: Tensor, launch: Launch,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients from grad_out (n, H * W, heads, dim) and what `forward` took and returned.

    -> those of query, key and value, each (n, H * W, heads, dim) float32, the query's for its products with keys alone;
    those of both terms, (n * heads, H, H * W) and (n * heads, W, H * W) float32. The caller takes the terms back to
    query and tables.
    """
    n, heads, num_tokens, dim = query.shape
    height, width = (len(table_h) + 1) // 2, (len(table_w) + 1) // 2
    rows = terms(query, table_h, width, by_row=True)
    columns = terms(query, table_w, width, by_row=False)
    grad_out = grad_out.contiguous()
    delta = (grad_out.float() * out.float()).sum(-1).transpose(1, 2).contiguous()  # (n, heads, H * W)
    grads = [torch.empty(n, num_tokens, heads, dim, dtype=torch.float32, device=query.device) for _ in range(3)]
    constants = _constants(launch, dim, height, width)
    tiles_across = triton.cdiv(width, constants["TILE_COLUMNS"])
    tiles_down = triton.cdiv(height, constants["TILE_ROWS"])
    grad_rows = rows.new_empty(tiles_across, *rows.shape)
    grad_columns = torch.empty_like(columns)
    given = (query, key, value, rows, columns, grad_out, logsumexp, delta)
    strides = (*query.stride()[:3], *key.stride()[:3], *value.stride()[:3])
    sizes = (heads, height, width, dim**-0.5, LOG2_E.value * dim**-0.5)
    _query_gradient_kernel[triton.cdiv(num_tokens, launch.block_m), n * heads](
        *given, grads[0], grad_rows, grad_columns, *strides, *sizes, **constants
    )
    _key_value_gradient_kernel[tiles_across * tiles_down, n * heads](
        *given, grads[1], grads[2], *strides, *sizes, **constants
    )
    return grads[0], grads[1], grads[2], grad_rows.sum(0), grad_columns


def _constants(launch: Launch, dim: int, height: int, width: int) -> dict[str, int | bool]:
    d0, d1 = head_split(dim)
    tile_rows, tile_columns = tile_shape(launch.block_n, height, width)
    return {
        "D0": d0,
        "D1": d1,
        "BLOCK_M": launch.block_m,
        "TILE_ROWS": tile_rows,
        "TILE_COLUMNS": tile_columns,
        "IN_FLOAT32": interpreted(),
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
    }
