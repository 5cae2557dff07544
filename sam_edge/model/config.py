"""Configurations of every part: plain data, saved in checkpoints and manifests.

One prompt encoder, one two-way transformer and one mask decoder class serve all variants; what differs is here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from sam_edge.contract import (
    SAM_PIXEL_MEAN,
    SAM_PIXEL_STD,
    SAM_PRED_IOU_THRESH,
    SAM_STABILITY_SCORE_THRESH,
    ModelSpec,
)

__all__ = ["DecoderConfig", "EncoderConfig", "ModelConfig", "NanoEncoderConfig", "TinyViTConfig", "ViTConfig"]


@dataclass(frozen=True)
class DecoderConfig:
    """Prompt encoder, two-way transformer and mask decoder; the defaults are SAM's.

    `high_res_channels`: channels of the encoder's features at strides 4 and 8, added while upscaling; () for none.
    `dense_prompts`: also show the prompts to the decoder as maps (see model/dense_prompts.py); `box_ellipse`: with one
    more map, of the ellipse in the box. `box_bias`: masks of a box without a mask input have a bias of their own.
    `refine`: a residual depthwise-separable 3x3 convolution at stride 4 after the prompts have been added there.
    `mask_iou_head`: predict IoU from the mask itself as well as from the token (see `MaskIoUHead`).
    `logit_scale`: what masks are multiplied with in the end; the losses divide by it. It changes no mask, but it sets
    what a logit of 1 means: SAM's stability score and mask prompts of +-8 expect logits of SAM's size.
    """

    dim: int = 256
    depth: int = 2
    num_heads: int = 8
    mlp_dim: int = 2048
    attention_downsample: int = 2
    mask_in_channels: int = 16
    upscaled_channels: tuple[int, int] = (64, 32)
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256
    activation: str = "gelu"
    high_res_channels: tuple[int, ...] = ()
    dense_prompts: bool = False
    box_ellipse: bool = False
    box_bias: bool = False
    refine: bool = False
    mask_iou_head: bool = False
    logit_scale: float = 1.0


@dataclass(frozen=True)
class NanoEncoderConfig:
    """A trunk (one of `trunks.TRUNKS`), a top-down step from stride 32 to 16, and skips at strides 8 and 4.

    `pixel_path`: channels at strides 4 and 8 of a path that carries what stride 16 knows down to both skips; () for
    none. `neck_blocks`: residual blocks of two 3x3 convolutions at stride 16. `high_res_channels` () leaves both skips
    and the pixel path out: image_embeddings alone, as SAM's own decoder takes them.
    """

    image_size: int = 512
    dim: int = 128
    high_res_channels: tuple[int, ...] = (32, 64)
    pixel_path: tuple[int, ...] = ()
    neck_blocks: int = 0
    trunk: str = "efficientnet_lite0"


@dataclass(frozen=True)
class ViTConfig:
    """SAM's image encoder: a plain ViT with windowed and a few global blocks (ViTDet, Li et al., arXiv 2203.16527).

    `out_channels` are those of image_embeddings; `global_blocks` are the indices of the blocks without windows.
    """

    embed_dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    image_size: int = 1024
    window_size: int = 14
    mlp_ratio: int = 4
    out_channels: int = 256


@dataclass(frozen=True)
class TinyViTConfig:
    """MobileSAM's image encoder (TinyViT-5M, Wu et al., arXiv 2207.10666); the defaults are MobileSAM's.

    The first stage is convolutional; `num_heads` and `window_sizes` are of the three that follow. `num_classes` belongs
    to the classifier of its ImageNet training, which public files still hold.
    """

    image_size: int = 1024
    embed_dims: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (4, 5, 10)
    window_sizes: tuple[int, ...] = (7, 14, 7)
    mlp_ratio: int = 4
    num_classes: int = 1000
    out_channels: int = 256


EncoderConfig: TypeAlias = ViTConfig | TinyViTConfig | NanoEncoderConfig

ENCODER_KINDS: dict[str, type[EncoderConfig]] = {"vit": ViTConfig, "tinyvit": TinyViTConfig, "nano": NanoEncoderConfig}


@dataclass(frozen=True)
class ModelConfig:
    """A whole model as plain data: enough to build it, and to write down in a checkpoint or a manifest.

    `pixel_mean` and `pixel_std` are per RGB channel in grey levels 0 to 255.
    """

    name: str
    encoder: EncoderConfig
    decoder: DecoderConfig = DecoderConfig()
    pixel_mean: tuple[float, float, float] = SAM_PIXEL_MEAN
    pixel_std: tuple[float, float, float] = SAM_PIXEL_STD
    pred_iou_thresh: float = SAM_PRED_IOU_THRESH
    stability_score_thresh: float = SAM_STABILITY_SCORE_THRESH

    @property
    def spec(self) -> ModelSpec:
        """What a host must know to feed the model."""
        return ModelSpec(
            name=self.name,
            image_size=self.encoder.image_size,
            embedding_channels=self.decoder.dim,
            high_res_channels=self.decoder.high_res_channels,
            pixel_mean=self.pixel_mean,
            pixel_std=self.pixel_std,
            pred_iou_thresh=self.pred_iou_thresh,
            stability_score_thresh=self.stability_score_thresh,
        )

    def with_image_size(self, image_size: int) -> ModelConfig:
        """The same model for another input side in pixels."""
        return replace(self, encoder=replace(self.encoder, image_size=image_size))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` turns it back."""
        kind = next(kind for kind, config in ENCODER_KINDS.items() if isinstance(self.encoder, config))
        return asdict(self) | {"encoder": {"kind": kind, **asdict(self.encoder)}}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """Raises KeyError, TypeError or ValueError where `data` is not what `to_dict` returns."""
        encoder = _tuples(data["encoder"])
        kind = ENCODER_KINDS[encoder.pop("kind")]
        parts = {"encoder": kind(**encoder), "decoder": DecoderConfig(**_tuples(data["decoder"]))}
        return cls(**_tuples(data) | parts)


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    """A copy whose lists, which JSON has for tuples, are tuples again."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
