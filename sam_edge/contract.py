"""The one definition that models, exports and runtimes share: tensor names, shapes, label codes, constants.

This module imports nothing else of the package but `errors`. Shapes are in `docs/architecture.md` and on the
dataclasses below; S is the model's input side in pixels, B prompts, N point slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EMBEDDING_STRIDE",
    "HIGH_RES_FEATURES",
    "HIGH_RES_STRIDES",
    "LABEL_BACKGROUND",
    "LABEL_BOX_BOTTOM_RIGHT",
    "LABEL_BOX_TOP_LEFT",
    "LABEL_EMPTY",
    "LABEL_FOREGROUND",
    "LABEL_PADDING",
    "MASK_STRIDE",
    "MASK_THRESHOLD",
    "NUM_MASKS",
    "PREDICTION_OUTPUTS",
    "PROMPT_INPUTS",
    "SAM_PIXEL_MEAN",
    "SAM_PIXEL_STD",
    "SAM_PRED_IOU_THRESH",
    "SAM_STABILITY_SCORE_THRESH",
    "Embedding",
    "Float32",
    "ModelSpec",
    "Prediction",
    "PromptTensors",
    "Runtime",
]

Float32: TypeAlias = NDArray[np.float32]

# Point labels. SAM appends one padding point (-1) to a prompt without a box, and that token takes part in
# attention. An empty slot (-2) takes no part in anything: it fills shapes that a format fixes.
LABEL_BACKGROUND = 0
LABEL_FOREGROUND = 1
LABEL_BOX_TOP_LEFT = 2
LABEL_BOX_BOTTOM_RIGHT = 3
LABEL_PADDING = -1
LABEL_EMPTY = -2

EMBEDDING_STRIDE = 16  # pixels of the model's input a cell of image_embeddings covers
MASK_STRIDE = 4  # and of low_res_masks and mask_input
NUM_MASKS = 4  # 0: the single mask; 1 to 3: the alternatives for an ambiguous prompt
MASK_THRESHOLD = 0.0  # a logit above it is mask

# Tensor names, in the order in which graphs declare them.
IMAGE = "image"
PHOTO = "photo"  # in its place where the encoder's graph preprocesses
IMAGE_EMBEDDINGS = "image_embeddings"
HIGH_RES_FEATURES = ("high_res_features_0", "high_res_features_1")
HIGH_RES_STRIDES = (4, 8)
PROMPT_INPUTS = ("point_coords", "point_labels", "mask_input", "has_mask_input")
PREDICTION_OUTPUTS = ("low_res_masks", "iou_predictions")

# Normalisation of SAM and MobileSAM: ImageNet's, in grey levels 0 to 255, RGB.
SAM_PIXEL_MEAN = (123.675, 116.28, 103.53)
SAM_PIXEL_STD = (58.395, 57.12, 57.375)

# Everything mode's thresholds, tuned by segment-anything's authors for ViT-H; a model may bring its own.
SAM_PRED_IOU_THRESH = 0.88
SAM_STABILITY_SCORE_THRESH = 0.95


@dataclass(frozen=True)
class ModelSpec:
    """What a host must know of a model to feed it; part of every manifest.

    `image_size` is S in pixels. `high_res_channels` is () or (channels at S/4, channels at S/8).
    `pixel_mean` and `pixel_std` are per RGB channel in grey levels 0 to 255. `pred_iou_thresh` and
    `stability_score_thresh` are the ones that suit this model in everything mode. `photo_input`: the encoder takes the
    photo itself, (H, W, 3) uint8 of any size, and preprocesses it in its graph.
    """

    name: str
    image_size: int
    embedding_channels: int
    high_res_channels: tuple[int, ...] = ()
    pixel_mean: tuple[float, float, float] = SAM_PIXEL_MEAN
    pixel_std: tuple[float, float, float] = SAM_PIXEL_STD
    pred_iou_thresh: float = SAM_PRED_IOU_THRESH
    stability_score_thresh: float = SAM_STABILITY_SCORE_THRESH
    photo_input: bool = False

    @property
    def embedding_size(self) -> int:
        """Side of image_embeddings in cells."""
        return self.image_size // EMBEDDING_STRIDE

    @property
    def mask_size(self) -> int:
        """Side of low_res_masks and mask_input in cells."""
        return self.image_size // MASK_STRIDE


@dataclass(frozen=True)
class Embedding:
    """What `encode` returns and `decode` takes: one photo, seen once.

    image_embeddings (1, C, S/16, S/16) float32; high_res_features: () or (1, C0, S/4, S/4), (1, C1, S/8, S/8).
    """

    image_embeddings: Float32
    high_res_features: tuple[Float32, ...] = ()


@dataclass(frozen=True)
class PromptTensors:
    """B prompts on one photo, each with N point slots.

    point_coords (B, N, 2) float32, pixels of the resized image, x then y (the half-pixel shift is inside the model);
    point_labels (B, N) float32, LABEL_*; mask_input (B, 1, S/4, S/4) float32 logits; has_mask_input (B,) float32, 0
    or 1.
    """

    point_coords: Float32
    point_labels: Float32
    mask_input: Float32
    has_mask_input: Float32


@dataclass(frozen=True)
class Prediction:
    """low_res_masks (B, 4, S/4, S/4) float32 logits and iou_predictions (B, 4) float32."""

    low_res_masks: Float32
    iou_predictions: Float32


class Runtime(Protocol):
    """All that predictor, everything mode, evaluation, benchmark and page know of a model."""

    @property
    def name(self) -> str:
        """The runtime's name: "onnx", "torch"."""
        ...

    @property
    def spec(self) -> ModelSpec: ...

    def encode(self, image: NDArray[Any]) -> Embedding:
        """What `image.preprocess` gives for this spec: image (1, 3, S, S) float32, resized, normalised, zero-padded
        right and below, or with `photo_input` the photo (H, W, 3) uint8."""
        ...

    def decode(self, embedding: Embedding, prompts: PromptTensors) -> Prediction: ...
