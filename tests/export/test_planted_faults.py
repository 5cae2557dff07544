"""A certificate that cannot fail is worth nothing: exports of a model with bugs that people's exports have had."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from torch import Tensor

from sam_edge.contract import LABEL_BOX_BOTTOM_RIGHT, LABEL_BOX_TOP_LEFT
from sam_edge.export.graphs import exported_values
from sam_edge.export.pipeline import Exporter, Request
from sam_edge.export.targets import TARGETS
from sam_edge.model.checkpoints import save_checkpoint
from sam_edge.model.sam import Sam


class SwappedCorners(Sam):
    """Takes a box's first corner for its second."""

    def decode(
        self, features: tuple[Tensor, ...], coords: Tensor, labels: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        first, second = labels == LABEL_BOX_TOP_LEFT, labels == LABEL_BOX_BOTTOM_RIGHT
        swapped = labels + (first.float() - second.float()) * (LABEL_BOX_BOTTOM_RIGHT - LABEL_BOX_TOP_LEFT)
        return super().decode(features, coords, swapped, *rest)


class DroppedMask(Sam):
    """Accepts a mask input and does not look at it."""

    def decode(
        self, features: tuple[Tensor, ...], coords: Tensor, labels: Tensor, mask_input: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        return super().decode(features, coords, labels, mask_input, has_mask * 0)


@pytest.fixture(scope="module")
def weights(nano: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(exported_values(nano, "float16"), path)  # as a release: float16 holds it exactly
    return path


IN_CI = {("onnx", "box"), ("onnx", "mask"), ("openvino", "box"), ("tflite", "mask"), ("coreml", "box")}


@pytest.mark.parametrize(
    ("target", "fault", "kind"),
    [
        pytest.param(target, fault, kind, marks=() if (target, kind) in IN_CI else pytest.mark.slow)
        for target in sorted(TARGETS)
        for fault, kind in ((SwappedCorners, "box"), (DroppedMask, "mask"))
    ],
)
def test_the_certificate_of_every_format_catches_a_planted_bug(
    target: str, fault: type[Sam], kind: str, weights: Path, tmp_path: Path
) -> None:
    with Exporter(Request(str(weights), tmp_path / "out", threads=1, measure_speed=False)) as exporter:
        exporter.model = copy.deepcopy(exporter.model)  # the reference keeps the whole one
        exporter.model.__class__ = fault
        row = exporter.export(target, "fp32")
    assert not row.passed and not row.path
    assert row.certificate["kinds"][kind]["mask_iou_mean"] < 0.9
    assert any(line.startswith(f"{kind}: mask_iou_mean is") for line in row.certificate["missed"])
    assert not (tmp_path / "out").exists()
