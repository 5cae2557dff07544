"""A convolution with a frozen batch norm as a scale a channel: what nano's trunks are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_edge.model.depthwise import trained_depthwise

__all__ = ["ScaledConv", "fold_scales", "folded_weight"]


class ScaledConv(nn.Module):
    """A convolution with the frozen batch norm that followed it: a fixed scale a channel and a trained bias.

    Keeping the scale apart keeps the weights at the size the optimiser met in ImageNet training; an export multiplies
    them once. Strides of two pad as TensorFlow's SAME does on even sides: one more right and below.
    """

    scale: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, relu6: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel, kernel))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("scale", torch.ones(out_channels, 1, 1, 1))
        self.kernel, self.stride, self.groups, self.relu6 = kernel, stride, groups, relu6

    def forward(self, x: Tensor) -> Tensor:
        padding = self.kernel // 2
        if self.stride == 2:
            before, after = (self.kernel - 2) // 2, (self.kernel - 1) // 2
            x = F.pad(x, (before, after, before, after))
            padding = 0
        weight = self.weight * self.scale
        if self.groups > 1 and torch.is_grad_enabled():
            x = trained_depthwise(x, weight, self.stride, padding) + self.bias.view(-1, 1, 1)
        else:
            x = F.conv2d(x, weight, self.bias, self.stride, padding, groups=self.groups)
        return F.relu6(x) if self.relu6 else x


def folded_weight(conv: ScaledConv) -> Tensor:
    """The weight that `conv` computes with: its scale multiplied in."""
    return conv.weight * conv.scale


@torch.no_grad()
def fold_scales(model: nn.Module) -> None:
    """Multiply every fixed scale inside `model` into its convolution, in place; what it computes stays the same."""
    for module in model.modules():
        if isinstance(module, ScaledConv):
            module.weight.copy_(folded_weight(module))
            module.scale.fill_(1)
