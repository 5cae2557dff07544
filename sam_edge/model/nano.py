"""nano's encoder: a trunk of convolutions (trunks.py) and a light top-down path.

The neck has no norm either, so that the exported encoder is convolutions, additions, ReLU and bilinear resizes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sam_edge.errors import CheckpointError
from sam_edge.model.config import NanoEncoderConfig
from sam_edge.model.trunks import TRUNKS, Trunk

__all__ = ["NanoEncoder"]

LATERAL_STD = 0.2  # of 1x1 convolutions from the trunk: its features have an rms of 3 to 9, what is made of them near 1


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
        if config.trunk not in TRUNKS:
            raise CheckpointError(f"{config.trunk!r:.60} is not a trunk, expected one of: {', '.join(TRUNKS)}.")
        plan = TRUNKS[config.trunk]
        channels, dim = plan.channels, config.dim
        self.trunk = Trunk(plan)
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
