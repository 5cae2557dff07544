"""What a user would pick instead of `nano`: encoders of others, written from their papers, with random weights.

Latency does not depend on the weights' values. Batch norm is folded and RepViT is re-parametrised, as its authors
deploy it: this is what runs on a device, not what is trained.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_edge.export import to_onnx
from sam_edge.export.plan import Plan
from sam_edge.model.registry import build_model
from sam_edge.quantize.recipe import Recipe

__all__ = ["ENCODERS", "encoder_to_onnx", "parameters", "sam_to_onnx"]

EMBEDDING_CHANNELS = 256


class SqueezeExcite(nn.Module):
    """Hu et al. 2018, with a quarter of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class RepViTBlock(nn.Module):
    """Wang et al., RepViT (2024), figure 3, at inference: a depthwise token mixer, then a channel mixer."""

    def __init__(self, inputs: int, outputs: int, stride: int, excite: bool) -> None:
        super().__init__()
        self.mix = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs)
        self.excite = SqueezeExcite(inputs) if excite else nn.Identity()
        self.project = nn.Conv2d(inputs, outputs, 1) if stride > 1 or inputs != outputs else nn.Identity()
        self.expand, self.shrink = nn.Conv2d(outputs, 2 * outputs, 1), nn.Conv2d(2 * outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(self.excite(self.mix(x)))
        mixed: Tensor = x + self.shrink(F.gelu(self.expand(x)))
        return mixed


class RepViTM1(nn.Module):
    """RepViT-M1 (0.9 in later naming: 5.1 M parameters with its classifier) and EdgeSAM's light top-down neck."""

    WIDTHS, DEPTHS = (48, 96, 192, 384), (3, 4, 16, 3)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.GELU(), nn.Conv2d(24, 48, 3, 2, 1))
        stages, channels = [], 48
        for number, (width, depth) in enumerate(zip(self.WIDTHS, self.DEPTHS, strict=True)):
            blocks = []
            for i in range(depth):
                blocks.append(RepViTBlock(channels, width, 2 if i == 0 and number else 1, excite=i % 2 == 1))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList([nn.Conv2d(width, EMBEDDING_CHANNELS, 1) for width in self.WIDTHS[2:]])
        self.smooth = nn.Conv2d(EMBEDDING_CHANNELS, EMBEDDING_CHANNELS, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        x, levels = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        at_16, at_32 = (lateral(level) for lateral, level in zip(self.lateral, levels[2:], strict=True))
        embedding: Tensor = self.smooth(at_16 + F.interpolate(at_32, scale_factor=2.0, mode="nearest"))
        return embedding  # (1, 256, S/16, S/16)


class BasicBlock(nn.Module):
    """He et al. 2016, figure 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.skip(x) + self.second(F.relu(self.first(x))))


class ResNet18(nn.Module):
    """ResNet-18 and a neck that brings stride 32 back to 16, as NanoSAM needs it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        blocks, channels = [], 64
        for number, width in enumerate((64, 128, 256, 512)):
            blocks += [BasicBlock(channels, width, 2 if number else 1), BasicBlock(width, width, 1)]
            channels = width
        self.body = nn.Sequential(*blocks)
        self.neck = nn.Sequential(
            nn.Conv2d(512, EMBEDDING_CHANNELS, 1),
            nn.GELU(),
            nn.ConvTranspose2d(EMBEDDING_CHANNELS, EMBEDDING_CHANNELS, 2, 2),
            nn.GELU(),
            nn.Conv2d(EMBEDDING_CHANNELS, EMBEDDING_CHANNELS, 3, 1, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        embedding: Tensor = self.neck(self.body(self.stem(image)))
        return embedding  # (1, 256, S/16, S/16)


ENCODERS: dict[str, Callable[[], nn.Module]] = {"repvit_m1": RepViTM1, "resnet18": ResNet18}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def encoder_to_onnx(name: str, side: int) -> tuple[bytes, int]:
    """The graph image (1, 3, side, side) -> image_embeddings of an encoder of ENCODERS, and its parameters."""
    torch.manual_seed(0)
    model = ENCODERS[name]().eval()
    buffer = io.BytesIO()
    program = torch.onnx.export(
        model,
        (torch.zeros(1, 3, side, side),),
        input_names=["image"],
        output_names=["image_embeddings"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # dynamo always returns one
    program.optimize()
    buffer.write(program.model_proto.SerializeToString())
    return buffer.getvalue(), parameters(model)


def sam_to_onnx(name: str, side: int) -> tuple[dict[str, bytes], dict[str, int]]:
    """encoder.onnx and decoder.onnx of a model of the family, random weights, and the parameters of both."""
    torch.manual_seed(0)
    model = build_model(name, side).eval()
    files = to_onnx.export(model, Plan(Recipe("onnx", "fp32"))).files
    encoder = parameters(model.image_encoder)
    return files, {"encoder": encoder, "decoder": parameters(model) - encoder}
