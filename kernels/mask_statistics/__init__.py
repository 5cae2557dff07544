"""Everything mode's filter: a mask's area, stability and box at the photo's size, without the mask at that size.

`mask_statistics` gives them, `full_size_masks` the masks that passed. `supports` says whether the kernels take some
tensors; `reference.py` is the contract, `triton_kernel.py` the GPU's code. README.md has the maths and the traffic.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sam_edge.contract import MASK_THRESHOLD
from sam_edge.kernels.launch import generation_of, has_triton, on_device_of
from sam_edge.kernels.mask_statistics import reference
from sam_edge.kernels.support import DTYPES, MAX_GRID, Support

__all__ = ["MaskStatistics", "full_size_masks", "mask_statistics", "supports"]

Size = tuple[int, int]


class MaskStatistics(NamedTuple):
    """Of N masks at the photo's size. A mask without pixels has a box of zeros; its stability may be NaN (0 / 0)."""

    areas: Tensor  # (N,) int64
    boxes_xyxy: Tensor  # (N, 4) int64, outermost pixels, both inclusive
    stability_score: Tensor  # (N,) float32


def mask_statistics(
    low_res_masks: Tensor,
    image_size: int,
    input_size: Size,
    original_size: Size,
    threshold: float = MASK_THRESHOLD,
    offset: float = 1.0,
) -> MaskStatistics:
    """What `masks.stability_score`, `boxes.mask_to_box` and a count of pixels say of N masks (S/4, S/4) float.

    low_res_masks (N, S/4, S/4) logits; image_size S; input_size (h, w) of the photo in the model's image; original_size
    (H, W) of the photo. Where `supports` says no, `reference.py` computes it, mask by mask.
    """
    arguments = image_size, input_size, original_size, threshold, offset
    if supports(low_res_masks):
        numbers = torch.ops.sam_edge.mask_statistics(
            low_res_masks, image_size, input_size, original_size, threshold, offset
        )
    else:  # one at a time: that is the memory of one mask
        parts = [reference.counts(mask[None], *arguments) for mask in low_res_masks]
        numbers = torch.cat(parts) if parts else torch.zeros(0, 7, dtype=torch.int32, device=low_res_masks.device)
    areas = numbers[:, 2].long()
    boxes = numbers[:, 3:].long() * (areas > 0).unsqueeze(1)
    return MaskStatistics(areas, boxes, numbers[:, 0].float() / numbers[:, 1].float())


def full_size_masks(
    low_res_masks: Tensor, image_size: int, input_size: Size, original_size: Size, threshold: float = MASK_THRESHOLD
) -> Tensor:
    """Masks (N, S/4, S/4) of logits -> (N, H, W) bool, as `masks.upscale_masks`; N are those that passed the filter."""
    if supports(low_res_masks):
        return torch.ops.sam_edge.full_size_masks(  # type: ignore[no-any-return]
            low_res_masks, image_size, input_size, original_size, threshold
        )
    height, width = original_size
    out = torch.empty(len(low_res_masks), height, width, dtype=torch.bool, device=low_res_masks.device)
    for index, mask in enumerate(low_res_masks):
        logits = reference.upscale_logits(mask[None], image_size, input_size, original_size)[0]
        torch.gt(logits, threshold, out=out[index])
    return out


def supports(low_res_masks: Tensor) -> Support:
    """Whether the kernels take these logits, and why not."""
    if low_res_masks.dim() != 3 or low_res_masks.shape[1] != low_res_masks.shape[2]:
        return Support(f"low_res_masks has shape {tuple(low_res_masks.shape)}, expected (N, S/4, S/4).")
    if not 0 < len(low_res_masks) <= MAX_GRID:
        return Support(f"there are {len(low_res_masks)} masks, expected 1 to {MAX_GRID} in one call.")
    if low_res_masks.dtype not in DTYPES:
        return Support(f"low_res_masks is {low_res_masks.dtype}, expected one of {', '.join(map(str, DTYPES))}.")
    if not has_triton():
        return Support("Triton is not installed. Install it with: pip install 'sam-edge[gpu]'")
    if generation_of(low_res_masks.device) is None:
        return Support(f"low_res_masks is on {low_res_masks.device}, expected an NVIDIA GPU that LAUNCHES knows.")
    return Support()


@torch.library.custom_op(
    "sam_edge::mask_statistics",
    mutates_args=(),
    schema="(Tensor low_res_masks, int image_size, int[] input_size, int[] original_size, float threshold, "
    "float offset) -> Tensor",
)
def _counts(
    low_res_masks: Tensor, image_size: int, input_size: Size, original_size: Size, threshold: float, offset: float
) -> Tensor:
    sizes = image_size, (input_size[0], input_size[1]), (original_size[0], original_size[1])
    if generation_of(low_res_masks.device) is None:
        return reference.counts(low_res_masks, *sizes, threshold, offset)
    from sam_edge.kernels.mask_statistics import triton_kernel

    with on_device_of(low_res_masks):
        return triton_kernel.counts(_whole(low_res_masks), *sizes, threshold, offset)


@_counts.register_fake
def _counts_fake(
    low_res_masks: Tensor, image_size: int, input_size: Size, original_size: Size, threshold: float, offset: float
) -> Tensor:
    return low_res_masks.new_empty(low_res_masks.shape[0], 7, dtype=torch.int32)


@torch.library.custom_op(
    "sam_edge::full_size_masks",
    mutates_args=(),
    schema="(Tensor low_res_masks, int image_size, int[] input_size, int[] original_size, float threshold) -> Tensor",
)
def _masks(low_res_masks: Tensor, image_size: int, input_size: Size, original_size: Size, threshold: float) -> Tensor:
    sizes = image_size, (input_size[0], input_size[1]), (original_size[0], original_size[1])
    if generation_of(low_res_masks.device) is None:
        return reference.upscale_logits(low_res_masks, *sizes) > threshold
    from sam_edge.kernels.mask_statistics import triton_kernel

    with on_device_of(low_res_masks):
        return triton_kernel.masks(_whole(low_res_masks), *sizes, threshold)


@_masks.register_fake
def _masks_fake(
    low_res_masks: Tensor, image_size: int, input_size: Size, original_size: Size, threshold: float
) -> Tensor:
    return low_res_masks.new_empty(low_res_masks.shape[0], *original_size, dtype=torch.bool)


def _whole(low_res_masks: Tensor) -> Tensor:
    """Each mask contiguous; the kernel takes any stride between masks."""
    return low_res_masks if low_res_masks[0].is_contiguous() else low_res_masks.contiguous()
