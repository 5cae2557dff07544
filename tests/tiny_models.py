"""Real models that are small: every part of the family, random weights, milliseconds a run."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from sam_edge.model.config import DecoderConfig, ModelConfig, NanoEncoderConfig, TinyViTConfig, ViTConfig
from sam_edge.model.registry import MODELS, build_model
from sam_edge.model.sam import Sam

__all__ = ["TINY_CONFIGS", "tiny_model"]

_DECODER = DecoderConfig(dim=32, num_heads=2, mlp_dim=64, upscaled_channels=(16, 8), iou_head_hidden_dim=32)

TINY_CONFIGS = {
    "vit": ModelConfig(
        "tiny-vit",
        ViTConfig(32, depth=2, num_heads=2, global_blocks=(1,), image_size=64, window_size=3, out_channels=32),
        _DECODER,
    ),
    "tinyvit": ModelConfig(
        "tiny-tinyvit",
        TinyViTConfig(
            image_size=64,
            embed_dims=(8, 16, 24, 32),
            depths=(1, 1, 1, 1),
            num_heads=(1, 2, 2),
            window_sizes=(7, 5, 3),
            num_classes=4,
            out_channels=32,
        ),
        _DECODER,
    ),
    "nano": replace(
        MODELS["nano"],
        name="tiny-nano",
        encoder=NanoEncoderConfig(image_size=64, dim=32, high_res_channels=(8, 16), pixel_path=(12, 16), neck_blocks=1),
        decoder=replace(
            MODELS["nano"].decoder,
            dim=32,
            num_heads=2,
            mlp_dim=64,
            upscaled_channels=(16, 8),
            iou_head_hidden_dim=32,
            high_res_channels=(8, 16),
        ),
    ),
}


def tiny_model(kind: str, image_size: int | None = None) -> Sam:
    """The tiny model of an encoder's kind, the same weights every time; what usually starts at 0 or 1 is random too."""
    torch.manual_seed(0)
    model = build_model(TINY_CONFIGS[kind], image_size)
    for name, parameter in model.named_parameters():
        if "pos" in name or "bias" in name or "norm" in name or not parameter.any():
            nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.2)
    return model
