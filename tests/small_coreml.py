"""Two Core ML packages of the contract at 64 pixels, small enough to be converted for each test module."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_edge.artifact import Artifact, write_artifact
from sam_edge.contract import PREDICTION_OUTPUTS
from sam_edge.coreml_check import MODEL_PATH
from sam_edge.export import to_coreml
from sam_edge.golden_vectors import GoldenPhoto, pack, record
from sam_edge.runtimes.with_coreml import CoreMLVerifier
from tests.small_artifact import SPEC, small_manifest, small_photo, small_prompts

__all__ = [
    "ENCODER",
    "changed",
    "encoder",
    "encoder_model",
    "small_coreml_artifact",
    "small_coreml_files",
    "whole_coreml_artifact",
]

OUTPUTS = ("image_embeddings", "high_res_features_0", "high_res_features_1")
ENCODER = f"encoder.mlpackage/{MODEL_PATH}"


class Encoder(nn.Module):
    """Means of squares, mixed. Both weights are large enough for weight.bin (10 numbers)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.narrow = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, kernel_size=2, stride=2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        at_2, at_4, at_16 = (F.avg_pool2d(image, stride) for stride in (2, 4, 16))
        return self.wide(at_16), self.narrow(at_2), self.narrow(at_4)


class Decoder(nn.Module):
    """Logits: brightness, plus what points, embedding and mask input say; the four masks are multiples of it."""

    def forward(
        self, image_embeddings: Tensor, high_res_features_0: Tensor, high_res_features_1: Tensor, point_coords: Tensor,
        point_labels: Tensor, mask_input: Tensor, has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        votes = (point_coords.mean(2) / 64 * point_labels).sum(1)  # (B,)
        given = has_mask_input[:, None, None, None]
        logits = high_res_features_0.mean(1, keepdim=True) + votes[:, None, None, None] + mask_input * given
        logits = (
            logits + image_embeddings.mean((1, 2, 3), keepdim=True) + high_res_features_1.mean((1, 2, 3), keepdim=True)
        )
        low_res_masks = logits * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
        return low_res_masks, torch.sigmoid(votes)[:, None] * torch.tensor([[1.0, 0.9, 0.8, 0.7]])


@cache
def encoder() -> Encoder:
    return Encoder().eval()


@cache
def encoder_model() -> Any:
    """As coremltools has it in memory."""
    with to_coreml._quiet(), torch.no_grad():
        program = torch.export.export(encoder(), (torch.zeros(1, 3, SPEC.image_size, SPEC.image_size),))
        return to_coreml._convert(program, OUTPUTS, None)


@cache
def small_coreml_files() -> dict[str, bytes]:
    side, mask = SPEC.image_size, SPEC.mask_size
    with to_coreml._quiet(), torch.no_grad():
        image = torch.zeros(1, 3, side, side)
        prompts = torch.zeros(2, 3, 2), torch.zeros(2, 3), torch.zeros(2, 1, mask, mask), torch.zeros(2)
        prompt, point = torch.export.Dim("prompts", min=1, max=64), torch.export.Dim("points", min=1, max=16)
        sizes = (None, None, None, {0: prompt, 1: point}, {0: prompt, 1: point}, {0: prompt}, {0: prompt})
        program = torch.export.export(Decoder().eval(), (*encoder()(image), *prompts), dynamic_shapes=sizes)
        decoder_model = to_coreml._convert(program, PREDICTION_OUTPUTS, None)
        return to_coreml._package("encoder", encoder_model()) | to_coreml._package("decoder", decoder_model)


def changed(change: Callable[[Any], object], path: str = ENCODER) -> dict[str, bytes]:
    """The files after `change` of a protobuf message Model."""
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString(small_coreml_files()[path])
    change(spec)
    return small_coreml_files() | {path: bytes(spec.SerializeToString())}


def small_coreml_artifact(directory: Path, golden: tuple[GoldenPhoto, ...] = (), **changes: Any) -> Artifact:
    manifest = small_manifest(**({"target": "coreml"} | changes))
    return write_artifact(directory, manifest, small_coreml_files() | {"golden.npz": pack(golden)})


def whole_coreml_artifact(parent: Path) -> Path:
    """A folder with two golden photos, which loads with all checks."""
    draft = CoreMLVerifier(small_coreml_artifact(parent / "draft"), canary=False)
    golden = tuple(record(draft, small_photo(seed), small_prompts()) for seed in (1, 2))
    small_coreml_artifact(parent / "small", golden)
    return parent / "small"
