"""Area, stability and box of masks at the photo's size, straight from their low-resolution logits.

A pixel of the photo is a bilinear mean of up to four pixels of the model's image, each of which is one of up to four
cells of the logits: 16 cells and 7 weights, of which each axis gives its own (`axis_table`). Nothing else is stored.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["axis_table", "counts", "masks"]

TILE = (16, 64)  # pixels of a program, (height, width)
MAX_REGION = 4096  # cells under a tile that are looked at first; where there are more, none is
WARPS = 4  # and no fused multiply-add: its rounding is not that of the host's masks


@triton.jit
def _row_mean(ptr, row, left, right, weight, inside):
    """Two cells of one row, weighed: `row` (M, 1), the others (1, N) -> (M, N) float32."""
    a = tl.load(ptr + row + left, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(ptr + row + right, mask=inside, other=0.0).to(tl.float32)
    return a * (1.0 - weight) + b * weight


@triton.jit
def _model_pixel(ptr, top, bottom, weight_y, left, right, weight_x, inside):
    """A pixel of the model's image: two rows of cells (as offsets), across first, then down, as OpenCV's resize."""
    above = _row_mean(ptr, top, left, right, weight_x, inside)
    below = _row_mean(ptr, bottom, left, right, weight_x, inside)
    return above * (1.0 - weight_y) + below * weight_y


@triton.jit
def _logits(ptr, rows_ptr, row_weights_ptr, columns_ptr, column_weights_ptr, y, x, height, width, num_cells):
    """A tile (M, N) of a mask's logits at the photo's size; y (M, 1), x (1, N)."""
    inside = (y < height) & (x < width)
    on_y, on_x = y < height, x < width
    y0_top = tl.load(rows_ptr + y, mask=on_y, other=0) * num_cells
    y0_bottom = tl.load(rows_ptr + height + y, mask=on_y, other=0) * num_cells
    y1_top = tl.load(rows_ptr + 2 * height + y, mask=on_y, other=0) * num_cells
    y1_bottom = tl.load(rows_ptr + 3 * height + y, mask=on_y, other=0) * num_cells
    y0_weight = tl.load(row_weights_ptr + y, mask=on_y, other=0.0)
    y1_weight = tl.load(row_weights_ptr + height + y, mask=on_y, other=0.0)
    weight_y = tl.load(row_weights_ptr + 2 * height + y, mask=on_y, other=0.0)
    x0_left = tl.load(columns_ptr + x, mask=on_x, other=0)
    x0_right = tl.load(columns_ptr + width + x, mask=on_x, other=0)
    x1_left = tl.load(columns_ptr + 2 * width + x, mask=on_x, other=0)
    x1_right = tl.load(columns_ptr + 3 * width + x, mask=on_x, other=0)
    x0_weight = tl.load(column_weights_ptr + x, mask=on_x, other=0.0)
    x1_weight = tl.load(column_weights_ptr + width + x, mask=on_x, other=0.0)
    weight_x = tl.load(column_weights_ptr + 2 * width + x, mask=on_x, other=0.0)

    a = _model_pixel(ptr, y0_top, y0_bottom, y0_weight, x0_left, x0_right, x0_weight, inside)
    b = _model_pixel(ptr, y0_top, y0_bottom, y0_weight, x1_left, x1_right, x1_weight, inside)
    c = _model_pixel(ptr, y1_top, y1_bottom, y1_weight, x0_left, x0_right, x0_weight, inside)
    d = _model_pixel(ptr, y1_top, y1_bottom, y1_weight, x1_left, x1_right, x1_weight, inside)
    above = a * (1.0 - weight_x) + b * weight_x
    below = c * (1.0 - weight_x) + d * weight_x
    return tl.where(inside, above * (1.0 - weight_y) + below * weight_y, float("-inf"))


@triton.jit
def _largest_cell(ptr, rows_ptr, columns_ptr, first_y, first_x, height, width, num_cells, M: tl.constexpr,
                  N: tl.constexpr, REGION_ROWS: tl.constexpr, REGION_COLUMNS: tl.constexpr):  # fmt: skip
    """The largest of all cells that a tile of pixels is made of: no mean of them is larger."""
    last_y, last_x = tl.minimum(first_y + M, height) - 1, tl.minimum(first_x + N, width) - 1
    top, bottom = tl.load(rows_ptr + first_y), tl.load(rows_ptr + 3 * height + last_y)
    left, right = tl.load(columns_ptr + first_x), tl.load(columns_ptr + 3 * width + last_x)
    row = top + tl.arange(0, REGION_ROWS)[:, None]
    column = left + tl.arange(0, REGION_COLUMNS)[None, :]
    within = (row <= bottom) & (column <= right)
    return tl.max(tl.load(ptr + row * num_cells + column, mask=within, other=float("-inf")).to(tl.float32))


@triton.jit
def _counts_kernel(
    logits_ptr, rows_ptr, row_weights_ptr, columns_ptr, column_weights_ptr, out_ptr, stride_mask,
    height, width, num_cells, high, level, low, M: tl.constexpr, N: tl.constexpr,
    REGION_ROWS: tl.constexpr, REGION_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add one tile of one mask to its seven counts. Integers: any order of the tiles gives the same."""
    mask_id = tl.program_id(1).to(tl.int64)
    tiles_across = tl.cdiv(width, N)
    first_y, first_x = tl.program_id(0) // tiles_across * M, tl.program_id(0) % tiles_across * N
    logits_ptr += mask_id * stride_mask
    out_ptr += mask_id * 7
    if REGION_ROWS > 0:
        largest = _largest_cell(logits_ptr, rows_ptr, columns_ptr, first_y, first_x, height, width, num_cells, M, N,
                                REGION_ROWS, REGION_COLUMNS)  # fmt: skip
        if largest <= tl.minimum(low, high):
            return
    y = first_y + tl.arange(0, M)[:, None]
    x = first_x + tl.arange(0, N)[None, :]
    logits = _logits(logits_ptr, rows_ptr, row_weights_ptr, columns_ptr, column_weights_ptr, y, x, height, width,
                     num_cells)  # fmt: skip
    mask = logits > level
    tl.atomic_add(out_ptr, tl.sum((logits > high).to(tl.int32)))
    tl.atomic_add(out_ptr + 1, tl.sum((logits > low).to(tl.int32)))
    tl.atomic_add(out_ptr + 2, tl.sum(mask.to(tl.int32)))
    tl.atomic_min(out_ptr + 3, tl.min(tl.where(mask, x, width)))
    tl.atomic_min(out_ptr + 4, tl.min(tl.where(mask, y, height)))
    tl.atomic_max(out_ptr + 5, tl.max(tl.where(mask, x, -1)))
    tl.atomic_max(out_ptr + 6, tl.max(tl.where(mask, y, -1)))


@triton.jit
def _masks_kernel(
    logits_ptr, rows_ptr, row_weights_ptr, columns_ptr, column_weights_ptr, out_ptr, stride_mask,
    height, width, num_cells, level, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """One tile of one mask at the photo's size, 1 where it is above `level`."""
    mask_id = tl.program_id(1).to(tl.int64)
    tiles_across = tl.cdiv(width, N)
    y = tl.program_id(0) // tiles_across * M + tl.arange(0, M)[:, None]
    x = tl.program_id(0) % tiles_across * N + tl.arange(0, N)[None, :]
    logits_ptr += mask_id * stride_mask
    logits = _logits(logits_ptr, rows_ptr, row_weights_ptr, columns_ptr, column_weights_ptr, y, x, height, width,
                     num_cells)  # fmt: skip
    inside = (y < height) & (x < width)
    tl.store(out_ptr + (mask_id * height + y) * width + x, (logits > level).to(tl.uint8), mask=inside)


@lru_cache(maxsize=32)
def axis_table(
    num_cells: int, image_size: int, input_length: int, original_length: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Where the photo's pixels come from, along one axis: cells (4, length) int32 and weights (3, length) float32.

    A pixel is p0 * (1 - w) + p1 * w of two pixels of the model's image, and each p is a * (1 - f) + b * f of two cells:
    the cells are a0, b0, a1, b1, the weights f0, f1, w. Positions in float64, weights in float32, as in OpenCV.
    """
    first, second, weight = _neighbours(torch.arange(original_length, device=device), input_length, original_length)
    cells, weights = [], []
    for pixel in (first, second):
        a, b, share = _neighbours(pixel, num_cells, image_size)
        cells += [a, b]
        weights.append(share)
    return torch.stack(cells).to(torch.int32), torch.stack([*weights, weight])


def _neighbours(place: Tensor, source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """For places of an axis resized from `source` to `target`: two places of the source, and the second's weight."""
    position = ((place.double() + 0.5) * (source / target) - 0.5).clamp(0, source - 1)
    first = position.floor()
    return first.long(), (first.long() + 1).clamp(max=source - 1), (position - first).float()


def counts(
    low_res_masks: Tensor, image_size: int, input_size: tuple[int, int], original_size: tuple[int, int],
    threshold: float, offset: float,
) -> Tensor:  # fmt: skip
    """As `reference.counts`; low_res_masks (N, S/4, S/4) with contiguous masks -> (N, 7) int32."""
    height, width = original_size
    tables = _tables(low_res_masks, image_size, input_size, original_size)
    out = torch.zeros(len(low_res_masks), 7, dtype=torch.int32, device=low_res_masks.device)
    out[:, 3], out[:, 4], out[:, 5:] = width, height, -1  # numbers, not a tensor's copy: the host would wait for it
    cells = low_res_masks.shape[1]
    rows, columns = (_region(cells, image_size, *axis) for axis in zip(input_size, original_size, TILE, strict=True))
    looked_at = rows * columns <= MAX_REGION
    _counts_kernel[triton.cdiv(height, TILE[0]) * triton.cdiv(width, TILE[1]), len(low_res_masks)](
        low_res_masks, *tables, out, low_res_masks.stride(0), height, width, low_res_masks.shape[1],
        threshold + offset, threshold, threshold - offset, M=TILE[0], N=TILE[1],
        REGION_ROWS=rows if looked_at else 0, REGION_COLUMNS=columns if looked_at else 0,
        num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def masks(
    low_res_masks: Tensor,
    image_size: int,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    threshold: float,
) -> Tensor:
    """low_res_masks (N, S/4, S/4) with contiguous masks -> (N, H, W) bool, above the threshold."""
    height, width = original_size
    tables = _tables(low_res_masks, image_size, input_size, original_size)
    out = torch.empty(len(low_res_masks), height, width, dtype=torch.uint8, device=low_res_masks.device)
    _masks_kernel[triton.cdiv(height, TILE[0]) * triton.cdiv(width, TILE[1]), len(low_res_masks)](
        low_res_masks, *tables, out, low_res_masks.stride(0), height, width, low_res_masks.shape[1],
        threshold, M=TILE[0], N=TILE[1],
        num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return out.view(torch.bool)


def _tables(
    low_res_masks: Tensor, image_size: int, input_size: tuple[int, int], original_size: tuple[int, int]
) -> tuple[Tensor, ...]:
    sizes = zip(input_size, original_size, strict=True)
    tables = [axis_table(low_res_masks.shape[1], image_size, *lengths, low_res_masks.device) for lengths in sizes]
    return *tables[0], *tables[1]


def _region(num_cells: int, image_size: int, input_length: int, original_length: int, tile: int) -> int:
    """A power of two of cells that any `tile` pixels along an axis are made of."""
    per_pixel = num_cells / image_size * input_length / original_length
    return int(triton.next_power_of_2(int((tile - 1) * per_pixel + 2 * num_cells / image_size) + 4))
