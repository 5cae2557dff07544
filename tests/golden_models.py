"""The golden variants as our models, with the weights the golden values were made with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sam_edge.contract import NUM_MASKS
from sam_edge.model.config import DecoderConfig, ModelConfig, TinyViTConfig, ViTConfig
from sam_edge.model.registry import build_model
from sam_edge.model.sam import Sam
from tests.golden_data import golden_config, golden_state, inputs

__all__ = ["golden_image", "golden_model", "golden_model_config", "golden_tensors", "unpack_masks"]


def golden_model_config(variant: str) -> ModelConfig:
    """Our configuration from the original's constructor keywords, where ours leaves no choice checked."""
    original = golden_config(variant)
    encoder, decoder, transformer = original["image_encoder"], original["mask_decoder"], original["transformer"]
    assert decoder["num_multimask_outputs"] + 1 == NUM_MASKS
    ours: ViTConfig | TinyViTConfig
    if original["encoder"] == "ImageEncoderViT":
        ours = ViTConfig(
            embed_dim=encoder["embed_dim"],
            depth=encoder["depth"],
            num_heads=encoder["num_heads"],
            global_blocks=tuple(encoder["global_attn_indexes"]),
            image_size=encoder["img_size"],
            window_size=encoder["window_size"],
            mlp_ratio=encoder["mlp_ratio"],
            out_channels=encoder["out_chans"],
        )
    else:
        ours = TinyViTConfig(
            image_size=encoder["img_size"],
            embed_dims=tuple(encoder["embed_dims"]),
            depths=tuple(encoder["depths"]),
            num_heads=tuple(encoder["num_heads"][1:]),
            window_sizes=tuple(encoder["window_sizes"][1:]),
            mlp_ratio=int(encoder["mlp_ratio"]),
            num_classes=encoder["num_classes"],
        )
    decoder_config = DecoderConfig(
        dim=decoder["transformer_dim"],
        depth=transformer["depth"],
        num_heads=transformer["num_heads"],
        mlp_dim=transformer["mlp_dim"],
        attention_downsample=transformer["attention_downsample_rate"],
        mask_in_channels=original["prompt_encoder"]["mask_in_chans"],
        iou_head_depth=decoder["iou_head_depth"],
        iou_head_hidden_dim=decoder["iou_head_hidden_dim"],
    )
    mean, std = tuple(original["pixel_mean"]), tuple(original["pixel_std"])
    return ModelConfig(variant, ours, decoder_config, mean, std)


def golden_tensors(variant: str) -> dict[str, Tensor]:
    """The golden weights as tensors that share NumPy's memory."""
    return {name: torch.from_numpy(np.atleast_1d(x)).reshape(x.shape) for name, x in golden_state(variant).items()}


def golden_model(variant: str) -> Sam:
    """The variant with its golden weights, loaded strictly, in evaluation mode."""
    with torch.device("meta"):
        model = build_model(golden_model_config(variant))
    model.load_state_dict(golden_tensors(variant), strict=True, assign=True)
    return model


def golden_image(name: str, input_size: tuple[int, int]) -> tuple[NDArray[np.uint8], Tensor]:
    """The named image resized to (h, w): (h, w, 3) uint8 and as a tensor (3, h, w)."""
    height, width = input_size
    resized = np.asarray(Image.fromarray(inputs.image(name)).resize((width, height), Image.Resampling.BILINEAR))
    return resized, torch.from_numpy(resized.copy()).permute(2, 0, 1)


def unpack_masks(packed: NDArray[np.uint8], width: int) -> NDArray[Any]:
    """Masks packed along the last axis -> (..., H, W) bool."""
    return np.unpackbits(packed, axis=-1)[..., :width].astype(bool)
