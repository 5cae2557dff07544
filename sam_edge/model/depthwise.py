"""A depthwise convolution whose gradients are quick on a CPU.

The usual backward pass computes the filters' gradient whenever the bias needs one, and its input gradient of a strided
depthwise convolution is many times slower than the convolution itself. Here the input's gradient is a convolution again
(with the filters mirrored, over gradients spread out by the stride), and the filters' is left out where nobody asks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

__all__ = ["trained_depthwise"]


def trained_depthwise(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """x (n, C, h, w), weight (C, 1, k, k) -> (n, C, h', w'), differentiable once, in x and weight."""
    return _Depthwise.apply(x, weight, stride, padding)  # type: ignore[no-any-return, no-untyped-call]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.stride, ctx.padding, ctx.sides = stride, padding, x.shape[2:]
        return F.conv2d(x, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _input_gradient(gradient, weight, ctx.stride, ctx.padding, ctx.sides)
        if ctx.needs_input_grad[1]:
            grad_weight = conv2d_weight(  # type: ignore[no-untyped-call]
                x.float(), weight.shape, gradient.float(), ctx.stride, ctx.padding, groups=len(weight)
            ).to(weight.dtype)
        return grad_x, grad_weight, None, None


def _input_gradient(gradient: Tensor, weight: Tensor, stride: int, padding: int, sides: torch.Size) -> Tensor:
    kernel = weight.shape[-1]
    if stride > 1:
        spread = gradient.new_zeros(
            *gradient.shape[:2], *((side - 1) * stride + 1 for side in gradient.shape[2:])
        ).contiguous(memory_format=torch.channels_last)
        spread[:, :, ::stride, ::stride] = gradient
        gradient = spread
    before = kernel - 1 - padding
    after = [side + kernel - 1 - before - given for side, given in zip(sides, gradient.shape[2:], strict=True)]
    if after[0] != before or after[1] != before:
        gradient, before = F.pad(gradient, (before, after[1], before, after[0])), 0
    return F.conv2d(gradient, weight.flip(2, 3).to(gradient.dtype), None, 1, before, groups=len(weight))
