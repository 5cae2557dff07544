"""nano's encoder: EfficientNet-Lite0 and a light top-down path, convolutions and ReLU6 only.

The trunk is Google's EfficientNet-Lite0 (Apache-2.0; Tan and Le, arXiv 1905.11946, without squeeze-and-excitation and
with ReLU6, made for int8). Nothing here normalises at run time: batch norm is frozen and multiplied into the weights,
and the neck has none, so that the exported encoder is convolutions, additions and one bilinear resize.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_edge.model.config import NanoEncoderConfig
from sam_edge.model.depthwise import trained_depthwise

__all__ = ["LITE0_BLOCKS", "NanoEncoder", "ScaledConv", "fold_scales", "folded_weight"]

# (expansion, kernel, stride, channels out) of the blocks in use; the published network has one more, of 320 channels.
LITE0_BLOCKS = (
    (1, 3, 1, 16),
    (6, 3, 2, 24),
    (6, 3, 1, 24),
    (6, 5, 2, 40),
    (6, 5, 1, 40),
    (6, 3, 2, 80),
    (6, 3, 1, 80),
    (6, 3, 1, 80),
    (6, 5, 1, 112),
    (6, 5, 1, 112),
    (6, 5, 1, 112),
    (6, 5, 2, 192),
    (6, 5, 1, 192),
    (6, 5, 1, 192),
    (6, 5, 1, 192),
)
LITE0_STEM_CHANNELS = 32
LITE0_TAPS = {4: 2, 8: 4, 16: 10, 32: 14}  # stride: last block at that stride
LATERAL_STD = 0.2  # of 1x1 convolutions from the trunk: its features have an rms of 3 to 9, what is made of them near 1


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


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; a residual where shapes agree (Sandler et al., arXiv 1801.04381)."""

    def __init__(self, in_channels: int, expansion: int, kernel: int, stride: int, out_channels: int) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand = ScaledConv(in_channels, width, 1) if expansion > 1 else None
        self.depthwise = ScaledConv(width, width, kernel, stride, groups=width)
        self.project = ScaledConv(width, out_channels, 1, relu6=False)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y  # type: ignore[no-any-return]


class EfficientNetLite0(nn.Module):
    """The trunk: features at strides 4, 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ScaledConv(3, LITE0_STEM_CHANNELS, 3, stride=2)
        channels = LITE0_STEM_CHANNELS
        self.blocks = nn.ModuleList()
        for expansion, kernel, stride, out_channels in LITE0_BLOCKS:
            self.blocks.append(InvertedResidual(channels, expansion, kernel, stride, out_channels))
            channels = out_channels
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
            if index in LITE0_TAPS.values():
                taps.append(x)
        return x


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3x3; it starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.second = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))  # type: ignore[no-any-return]


class PixelPath(nn.Module):
    """What stride 16 knows, carried down to strides 8 and 4 (feature pyramids: Lin et al., arXiv 1612.03144).

    The trunk's own features there have seen little of the photo: they know an edge, not whose edge it is. The result is
    added to the skips, and starts at zero.
    """

    def __init__(self, channels_4: int, channels_8: int, config: NanoEncoderConfig) -> None:
        super().__init__()
        fine, middle = config.pixel_path
        self.from_16 = nn.Conv2d(config.dim, middle, kernel_size=1)
        self.lateral_8 = nn.Conv2d(channels_8, middle, kernel_size=1)
        self.block_8 = ResidualBlock(middle)
        self.from_8 = nn.Conv2d(middle, fine, kernel_size=1)
        self.lateral_4 = nn.Conv2d(channels_4, fine, kernel_size=1)
        self.block_4 = ResidualBlock(fine)
        self.to_skip_4 = nn.Conv2d(fine, config.high_res_channels[0], kernel_size=1)
        self.to_skip_8 = nn.Conv2d(middle, config.high_res_channels[1], kernel_size=1)
        for conv in (self.lateral_8, self.lateral_4):
            nn.init.normal_(conv.weight, std=LATERAL_STD / conv.in_channels**0.5)
        for conv in (self.to_skip_4, self.to_skip_8):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # there is one

    def forward(self, at_4: Tensor, at_8: Tensor, at_16: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the trunk and of the neck -> what is added to the skips at strides 4 and 8."""
        middle = self.block_8(self.lateral_8(at_8) + twice(self.from_16(at_16)))
        fine = self.block_4(self.lateral_4(at_4) + twice(self.from_8(F.relu(middle))))
        return self.to_skip_4(F.relu(fine)), self.to_skip_8(F.relu(middle))


def twice(x: Tensor) -> Tensor:
    """Twice the size, bilinear."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class NanoEncoder(nn.Module):
    """image (n, 3, S, S) -> image_embeddings (n, dim, S/16, S/16), features at S/4 and at S/8 if it has any."""

    def __init__(self, config: NanoEncoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = {stride: LITE0_BLOCKS[index][3] for stride, index in LITE0_TAPS.items()}
        dim = config.dim
        self.trunk = EfficientNetLite0()
        self.lateral_16 = nn.Conv2d(channels[16], dim, kernel_size=1)
        self.lateral_32 = nn.Conv2d(channels[32], dim, kernel_size=1)
        self.neck = nn.Conv2d(dim, dim, kernel_size=3, padding=1)
        self.neck_blocks = nn.Sequential(*(ResidualBlock(dim) for _ in range(config.neck_blocks)))
        laterals = [self.lateral_16, self.lateral_32]
        if config.high_res_channels:
            fine, middle = config.high_res_channels
            self.skip_8 = nn.Conv2d(channels[8], middle, kernel_size=1)
            self.skip_4 = nn.Conv2d(channels[4], fine, kernel_size=1)
            laterals += [self.skip_8, self.skip_4]
        for conv in laterals:
            nn.init.normal_(conv.weight, std=LATERAL_STD / conv.in_channels**0.5)
        with_path = bool(config.high_res_channels and config.pixel_path)
        self.pixel_path = PixelPath(channels[4], channels[8], config) if with_path else None

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        at_4, at_8, at_16, at_32 = self.trunk(image)
        x = self.lateral_16(at_16) + twice(self.lateral_32(at_32))
        x = self.neck_blocks(x + self.neck(F.relu(x)))
        if not self.config.high_res_channels:
            return (x,)
        skip_4, skip_8 = self.skip_4(at_4), self.skip_8(at_8)
        if self.pixel_path is not None:
            more_4, more_8 = self.pixel_path(at_4, at_8, x)
            skip_4, skip_8 = skip_4 + more_4, skip_8 + more_8
        return x, skip_4, skip_8
