"""An artifact small enough to be made in each test: two hand-written graphs of the contract at 64 pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

from sam_edge.artifact import Artifact, write_artifact
from sam_edge.contract import LABEL_EMPTY, LABEL_FOREGROUND, LABEL_PADDING, ModelSpec, PromptTensors
from sam_edge.golden_vectors import GoldenPhoto, pack, record
from sam_edge.manifest import Manifest
from sam_edge.runtimes import with_onnxruntime

SPEC = ModelSpec("small", image_size=64, embedding_channels=4, high_res_channels=(2, 2))

ENCODER = """
<ir_version: 10, opset_import: ["" : 20]>
encoder (float[1,3,64,64] image)
  => (float[1,4,4,4] image_embeddings, float[1,2,16,16] high_res_features_0, float[1,2,8,8] high_res_features_1)
<float[4,3,1,1] wide = {1.0, 0.5, 0.2, -1.0, 0.3, 0.7, 0.1, 0.9, -0.4, 0.6, -0.2, 0.8},
 float[2,3,1,1] narrow = {1.0, 1.0, 1.0, 0.5, -0.5, 0.25}>
{
  at_4 = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (image)
  at_8 = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (at_4)
  at_16 = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (at_8)
  image_embeddings = Conv (at_16, wide)
  high_res_features_0 = Conv (at_4, narrow)
  high_res_features_1 = Conv (at_8, narrow)
}
"""
# Logits: brightness, plus what points, embedding and mask input say; the four masks are multiples of it.
DECODER = """
<ir_version: 10, opset_import: ["" : 20]>
decoder (float[1,4,4,4] image_embeddings, float[1,2,16,16] high_res_features_0, float[1,2,8,8] high_res_features_1,
         float[prompts,points,2] point_coords, float[prompts,points] point_labels,
         float[prompts,1,16,16] mask_input, float[prompts] has_mask_input)
  => (float[prompts,4,16,16] low_res_masks, float[prompts,4] iou_predictions)
<int64[1] channel = {1}, int64[3] all = {1, 2, 3}, int64[1] last = {2}, int64[4] column = {-1, 1, 1, 1},
 int64[2] row = {-1, 1}, float[1,4,1,1] factors = {1.0, 2.0, 3.0, 4.0}, float[1,4] ones = {1.0, 0.9, 0.8, 0.7},
 float side = {64.0}>
{
  bright = ReduceMean (high_res_features_0, channel)
  deep = ReduceMean (image_embeddings, all)
  middle = ReduceMean (high_res_features_1, all)
  place = ReduceMean <keepdims = 0> (point_coords, last)
  scaled = Div (place, side)
  weighted = Mul (scaled, point_labels)
  votes = ReduceSum (weighted, channel)
  score = Reshape (votes, column)
  has = Reshape (has_mask_input, column)
  mask = Mul (mask_input, has)
  sum_0 = Add (bright, score)
  sum_1 = Add (sum_0, deep)
  sum_2 = Add (sum_1, middle)
  logits = Add (sum_2, mask)
  low_res_masks = Mul (logits, factors)
  confidence = Sigmoid (votes)
  flat = Reshape (confidence, row)
  iou_predictions = Mul (flat, ones)
}
"""


def small_graph(text: str, change: Callable[[onnx.ModelProto], None] | None = None) -> bytes:
    """The bytes of a graph in onnx's text form, after `change`."""
    model = onnx.parser.parse_model(text)
    if change is not None:
        change(model)
    return bytes(model.SerializeToString())


def small_manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": SPEC.name,
        "spec": SPEC,
        "config": {"encoder": {"kind": "hand-written"}},
        "parameters": 18,
        "checkpoint_sha256": "0" * 64,
        "target": "onnx",
        "precision": "float32",
        "weights_stored": "float32",
        "recipe": {},
        "graphs": {},
        "files": {},
        "tool_versions": {"onnx": onnx.__version__},
        "licence": "Apache-2.0",
        "training_data": "none",
        "command": "pytest",
    }
    return Manifest(**(fields | changes))


def small_photo(seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (48, 40, 3), dtype=np.uint8)


def small_prompts() -> PromptTensors:
    """A click with its padding point, and a click with an empty slot and a mask."""
    return PromptTensors(
        np.array([[[10, 20], [0, 0]], [[40, 50], [0, 0]]], np.float32),
        np.array([[LABEL_FOREGROUND, LABEL_PADDING], [LABEL_FOREGROUND, LABEL_EMPTY]], np.float32),
        np.random.default_rng(5).normal(size=(2, 1, 16, 16)).astype(np.float32),
        np.array([0, 1], np.float32),
    )


def small_files(golden: tuple[GoldenPhoto, ...] = (), encoder: bytes | None = None) -> dict[str, bytes]:
    return {
        "encoder.onnx": small_graph(ENCODER) if encoder is None else encoder,
        "decoder.onnx": small_graph(DECODER),
        "golden.npz": pack(golden),
    }


def small_artifact(directory: Path, golden: tuple[GoldenPhoto, ...] = (), **changes: Any) -> Artifact:
    """Write it to `directory`."""
    return write_artifact(directory, small_manifest(**changes), small_files(golden))


def whole_artifact(parent: Path) -> Path:
    """A folder with two golden photos, which loads with all checks."""
    small_artifact(parent / "draft")
    runtime = with_onnxruntime.load(parent / "draft", 1, canary=False)
    golden = tuple(record(runtime, small_photo(seed), small_prompts()) for seed in (1, 2))
    small_artifact(parent / "small", golden)
    return parent / "small"
