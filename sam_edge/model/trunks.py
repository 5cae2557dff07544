"""The trunks that nano's encoder can stand on.

They are convolutions, additions and ReLU6 only: every target has int8 for those. Nothing here normalises at run time:
batch norm is frozen into the weights (see scaled_conv.py).

- `efficientnet_lite0`: Google's EfficientNet-Lite0 (Apache-2.0; Tan and Le, arXiv 1905.11946, without
  squeeze-and-excitation and with ReLU6, made for int8), without its last block, of 320 channels.
- `mobilenet_v4`: blocks and kernels of MobileNetV4-Conv-Small (Qin et al., arXiv 2404.10518), with ReLU6.
- `repvit`: RepViT's blocks as they are after re-parameterisation (Wang et al., arXiv 2307.09283), without
  squeeze-and-excitation and with ReLU6.

The widths of the last two are ours, chosen so that all three encode a photo in about the same time (docs/ablations.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sam_edge.model.scaled_conv import ScaledConv

__all__ = ["TRUNKS", "Trunk", "TrunkPlan"]


class Row(NamedTuple):
    """A block: channels out, stride, expansion, and the kernels of what it has (0: it has none).

    `start` and `kernel` are depthwise, before and after the expansion; `fused` is the expansion's own.
    """

    channels: int
    stride: int = 1
    expansion: float = 6
    kernel: int = 3
    start: int = 0
    fused: int = 1
    repvit: bool = False


@dataclass(frozen=True)
class TrunkPlan:
    """The channels of the stem, a 3x3 convolution of stride 2, and the blocks after it, down to stride 32."""

    stem: int
    blocks: tuple[Row, ...]

    @property
    def taps(self) -> dict[int, int]:
        """Stride -> the last block at that stride, from stride 4 on."""
        stride, last = 2, {}
        for index, row in enumerate(self.blocks):
            stride *= row.stride
            last[stride] = index
        return {stride: index for stride, index in last.items() if stride >= 4}

    @property
    def channels(self) -> dict[int, int]:
        """Stride -> channels of the features there."""
        return {stride: self.blocks[index].channels for stride, index in self.taps.items()}


def _repvit(channels: int, stride: int = 1) -> Row:
    return Row(channels, stride, expansion=2, repvit=True)


TRUNKS: dict[str, TrunkPlan] = {
    "efficientnet_lite0": TrunkPlan(
        32,
        (
            Row(16, expansion=1),
            *(Row(24, 2), Row(24)),
            *(Row(40, 2, kernel=5), Row(40, kernel=5)),
            *(Row(80, 2), Row(80), Row(80)),
            *(Row(112, kernel=5), Row(112, kernel=5), Row(112, kernel=5)),
            *(Row(192, 2, kernel=5), Row(192, kernel=5), Row(192, kernel=5), Row(192, kernel=5)),
        ),
    ),
    "mobilenet_v4": TrunkPlan(
        40,
        (
            Row(48, 2, expansion=1, kernel=0, fused=3),
            Row(96, 2, expansion=3, kernel=0, fused=3),
            Row(152, 2, expansion=3, kernel=5, start=5),
            *(Row(152, expansion=2) for _ in range(4)),
            Row(152, expansion=4, kernel=0, start=3),
            Row(184, 2, expansion=6, start=3),
            Row(184, expansion=4, kernel=5, start=5),
            Row(184, expansion=4, kernel=5),
            Row(184, expansion=3, kernel=5),
            *(Row(184, expansion=4) for _ in range(2)),
        ),
    ),
    "repvit": TrunkPlan(
        32,
        (
            *(_repvit(56, 2), _repvit(56)),
            *(_repvit(104, 2), _repvit(104)),
            *(_repvit(168, 2), *(_repvit(168) for _ in range(7))),
            *(_repvit(288, 2), _repvit(288)),
        ),
    ),
}


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; a residual where shapes agree (Sandler et al., arXiv 1801.04381).

    With `start` a depthwise filter comes first, and with `fused` over 1 the expansion is a full convolution in the
    place of the depthwise one: MobileNetV4's universal inverted bottleneck.
    """

    def __init__(self, in_channels: int, row: Row) -> None:
        super().__init__()
        width = round(in_channels * row.expansion)
        expands = row.expansion > 1 or row.fused > 1
        self.start = _depthwise(in_channels, row.start) if row.start else None
        stride_of_expand = 1 if row.kernel else row.stride
        self.expand = ScaledConv(in_channels, width, row.fused, stride_of_expand) if expands else None
        self.depthwise = ScaledConv(width, width, row.kernel, row.stride, groups=width) if row.kernel else None
        self.project = ScaledConv(width, row.channels, 1, relu6=False)
        self.residual = row.stride == 1 and in_channels == row.channels

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for part in (self.start, self.expand, self.depthwise, self.project):
            y = y if part is None else part(y)
        return x + y if self.residual else y


class RepViTBlock(nn.Module):
    """Mix neighbours (depthwise), then channels (expand and project, with a residual)."""

    def __init__(self, in_channels: int, row: Row) -> None:
        super().__init__()
        self.depthwise = _depthwise(in_channels, row.kernel, row.stride)
        self.to_channels = ScaledConv(in_channels, row.channels, 1, relu6=False) if row.stride > 1 else None
        width = round(row.channels * row.expansion)
        self.expand = ScaledConv(row.channels, width, 1)
        self.project = ScaledConv(width, row.channels, 1, relu6=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(x)
        x = x if self.to_channels is None else self.to_channels(x)
        return x + self.project(self.expand(x))  # type: ignore[no-any-return]


def _depthwise(channels: int, kernel: int, stride: int = 1) -> ScaledConv:
    """Without an activation after it."""
    return ScaledConv(channels, channels, kernel, stride, groups=channels, relu6=False)


class Trunk(nn.Module):
    """image (n, 3, S, S) -> features at strides 4, 8, 16 and 32."""

    def __init__(self, plan: TrunkPlan) -> None:
        super().__init__()
        self.plan = plan
        self.stem = ScaledConv(3, plan.stem, 3, stride=2)
        channels = plan.stem
        self.blocks = nn.ModuleList()
        for row in plan.blocks:
            self.blocks.append((RepViTBlock if row.repvit else InvertedResidual)(channels, row))
            channels = row.channels
        self.frozen_blocks = 0

    def freeze(self, num_blocks: int, depthwise: bool = False) -> None:
        """Fix the stem and the first blocks, and with `depthwise` every depthwise filter.

        Fixed blocks run in bfloat16 while training, three times faster on a CPU. The gradient of depthwise filters
        (4 % of the trunk's weights) is a third of a CPU's training step.
        """
        self.frozen_blocks = num_blocks
        for part in [self.stem, *self.blocks[:num_blocks]] if num_blocks else []:
            part.requires_grad_(False)
        for name, parameter in self.named_parameters() if depthwise else ():
            if name.endswith("depthwise.weight"):
                parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        taps: list[Tensor] = []
        if self.training and self.frozen_blocks:
            with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16):
                x = self._run(self.stem(x), 0, self.frozen_blocks, taps)
            x, taps = x.float(), [tap.float() for tap in taps]
            self._run(x, self.frozen_blocks, len(self.blocks), taps)
        else:
            self._run(self.stem(x), 0, len(self.blocks), taps)
        return taps

    def _run(self, x: Tensor, start: int, stop: int, taps: list[Tensor]) -> Tensor:
        for index in range(start, stop):
            x = self.blocks[index](x)
            if index in self.plan.taps.values():
                taps.append(x)
        return x
