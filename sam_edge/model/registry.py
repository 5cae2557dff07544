"""The models by name."""

from __future__ import annotations

from torch import nn

from sam_edge.contract import EMBEDDING_STRIDE
from sam_edge.errors import CheckpointError
from sam_edge.model.config import (
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    NanoEncoderConfig,
    TinyViTConfig,
    ViTConfig,
)
from sam_edge.model.mask_decoder import MaskDecoder
from sam_edge.model.nano import NanoEncoder
from sam_edge.model.prompt_encoder import PromptEncoder
from sam_edge.model.sam import Sam
from sam_edge.model.tinyvit import TinyViT
from sam_edge.model.vit import ImageEncoderViT

__all__ = ["MODELS", "PUBLIC_CHECKPOINTS", "build_model", "model_config"]

NANO_PIXEL_MEAN = (127.0, 127.0, 127.0)  # the trunk's ImageNet training: (x - 127) / 128
NANO_PIXEL_STD = (128.0, 128.0, 128.0)

# Parameters stand beside each; the weights of all are Apache-2.0.
MODELS: dict[str, ModelConfig] = {
    "vit_b": ModelConfig("vit_b", ViTConfig(768, depth=12, num_heads=12, global_blocks=(2, 5, 8, 11))),  # 93.7 M
    "vit_l": ModelConfig("vit_l", ViTConfig(1024, depth=24, num_heads=16, global_blocks=(5, 11, 17, 23))),  # 312.3 M
    "vit_h": ModelConfig("vit_h", ViTConfig(1280, depth=32, num_heads=16, global_blocks=(7, 15, 23, 31))),  # 641.1 M
    "vit_t": ModelConfig("vit_t", TinyViTConfig()),  # 10.1 M, 0.3 M of them the unused classifier
    "nano": ModelConfig(  # 3.8 M
        "nano",
        NanoEncoderConfig(pixel_path=(48, 64), neck_blocks=1),
        DecoderConfig(
            dim=128,
            num_heads=4,
            mlp_dim=512,
            mask_in_channels=32,
            iou_head_hidden_dim=128,
            activation="relu",
            high_res_channels=(32, 64),
            dense_prompts=True,
            box_ellipse=True,
            box_bias=True,
            refine=True,
            mask_iou_head=True,
            logit_scale=4.0,
        ),
        pixel_mean=NANO_PIXEL_MEAN,
        pixel_std=NANO_PIXEL_STD,
        pred_iou_thresh=0.5,  # best F1 against the masks of 30 held-out training photos, grid of 16 x 16
        stability_score_thresh=0.6,
    ),
    # 8.2 M: nano's trunk under SAM's own decoder. No weights: a student for `sam-edge distill`, as NanoSAM's is.
    "nano_sam": ModelConfig(
        "nano_sam",
        NanoEncoderConfig(image_size=1024, dim=256, high_res_channels=(), neck_blocks=1),
        pixel_mean=NANO_PIXEL_MEAN,
        pixel_std=NANO_PIXEL_STD,
    ),
}

# Where the authors publish weights; they are not part of this package.
PUBLIC_CHECKPOINTS: dict[str, str] = {
    "vit_b": "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
    "vit_l": "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
    "vit_h": "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
    "vit_t": "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
}


def model_config(name: str) -> ModelConfig:
    """The configuration of that name; raises CheckpointError for an unknown one."""
    if name not in MODELS:
        raise CheckpointError(f"{name!r} is not a model, expected one of: {', '.join(MODELS)}.")
    return MODELS[name]


def build_model(config: str | ModelConfig, image_size: int | None = None, attention: str = "auto") -> Sam:
    """A model with fresh weights, in evaluation mode; `image_size` replaces the configuration's input side in pixels.

    attention: how its encoder attends, see `Sam.use_attention`.

    Raises CheckpointError for an unknown name and for an input side that the encoder cannot take.
    """
    if isinstance(config, str):
        config = model_config(config)
    if image_size is not None:
        config = config.with_image_size(image_size)
    spec = config.spec
    stride = 32 if isinstance(config.encoder, NanoEncoderConfig) else EMBEDDING_STRIDE
    if spec.image_size <= 0 or spec.image_size % stride:
        raise CheckpointError(f"image_size is {spec.image_size}, expected a multiple of {stride} for {config.name}.")
    prompt_encoder = PromptEncoder(config.decoder, spec.image_size)
    encoder = _build_encoder(config.encoder)
    return Sam(encoder, prompt_encoder, MaskDecoder(config.decoder), spec, attention).eval()


def _build_encoder(config: EncoderConfig) -> nn.Module:
    match config:
        case ViTConfig():
            return ImageEncoderViT(config)
        case TinyViTConfig():
            return TinyViT(config)
        case NanoEncoderConfig():
            return NanoEncoder(config)
