"""From a checkpoint to certified folders: what is written, what is refused, and what an interruption leaves."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sam_edge.artifact import open_artifact
from sam_edge.errors import DataError, ExportError
from sam_edge.export import to_onnx
from sam_edge.export.graphs import exported_values
from sam_edge.export.pipeline import FAILED_SUFFIX, Exporter, Request
from sam_edge.export.plan import Exported, Plan, Sizes
from sam_edge.model.checkpoints import save_checkpoint
from sam_edge.model.sam import Sam
from sam_edge.runtimes import load
from sam_edge.verify import verify
from tests.sa1b import PHOTOS, write_set


@pytest.fixture(scope="module")
def weights(nano: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(exported_values(nano, "float16"), path)  # as a release: float16 holds it exactly
    return path


@pytest.fixture
def exported_once(monkeypatch: pytest.MonkeyPatch, nano_files: dict[str, bytes]) -> None:
    """Tracing takes 10 s and has its own tests; what follows it is real."""
    monkeypatch.setattr(to_onnx, "to_onnx_bytes", lambda *_, **__: nano_files)


@pytest.fixture
def exporter(exported_once: None, weights: Path, tmp_path: Path) -> Iterator[Exporter]:
    request = Request(str(weights), tmp_path / "out", threads=1, measure_speed=False)
    with Exporter(request) as exporter:
        yield exporter


def test_an_artifact_that_passes_is_written_loads_and_verifies(exporter: Exporter, tmp_path: Path) -> None:
    row = exporter.export("onnx", "fp16")
    assert row.passed and row.stage == "done" and row.path == str(tmp_path / "out" / "tiny-nano-64-onnx-fp16")
    assert json.loads(json.dumps(row.to_dict()))["passed"] is True
    certificate = json.loads(open_artifact(row.path).read_file("certificate.json"))
    assert certificate["kinds"]["box"]["prompts"] == 9 and certificate["data"]["name"] == "bundled photos"
    assert load(row.path).name == "onnx"
    found = verify(row.path, threads=1)
    assert found.passed and found.figures["golden_mask_iou_min"] > 0.99


def broken(model: Sam) -> Sam:
    """Every mask is another object's: what a converter's bug does."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.mask_decoder.mask_tokens.weight.add_(0.5)
    return other


def test_an_artifact_that_misses_a_bound_leaves_nothing(
    exporter: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real export, of another model than the reference
    exporter.model = broken(exporter.model)
    row = exporter.export("onnx", "fp32")
    assert not row.passed and (row.path, row.stage) == ("", "certify")
    assert any("mask_iou_mean is" in line for line in row.certificate["missed"])
    assert not (tmp_path / "out").exists()


def test_a_failed_artifact_can_be_kept_and_says_so_in_name_manifest_and_verification(
    weights: Path, tmp_path: Path, nano: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = to_onnx.to_onnx_bytes(broken(nano), weights="float32")
    monkeypatch.setattr(to_onnx, "to_onnx_bytes", lambda *_, **__: files)
    with Exporter(Request(str(weights), tmp_path, threads=1, measure_speed=False, allow_fail=True)) as exporter:
        row = exporter.export("onnx", "fp32")
    assert row.path.endswith(FAILED_SUFFIX) and not row.passed
    assert open_artifact(row.path).manifest.quality == {"certificate_passed": 0}
    found = verify(row.path, threads=1)
    assert not found.passed and "did not pass" in str(found.checks["certificate"])


def test_an_interrupted_export_leaves_nothing_that_looks_like_an_artifact(
    exporter: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(target: str, precision: str, stage: str) -> None:
        if stage == "write":
            raise KeyboardInterrupt

    exporter.progress = interrupt
    with pytest.raises(KeyboardInterrupt):
        exporter.export("onnx", "fp16")
    assert not list(tmp_path.rglob("manifest.json"))


def test_int8_needs_calibration_photos_that_are_not_the_ones_it_is_judged_by(
    exported_once: None, weights: Path, tmp_path: Path
) -> None:
    with (
        Exporter(Request(str(weights), tmp_path, threads=1)) as exporter,
        pytest.raises(ExportError, match="int8 needs photos to calibrate on: give a folder"),
    ):
        exporter.export("onnx", "int8")
    same = Request(str(weights), tmp_path, threads=1, calibrate=write_set(tmp_path / "set"), data=(PHOTOS,))
    with (
        Exporter(same) as exporter,
        pytest.raises(DataError, match="also among the photos that judge the result"),
    ):
        exporter.export("onnx", "int8")


@pytest.mark.parametrize(
    ("target", "precision", "reason"),
    [
        ("onx", "fp32", "target 'onx' is not known, expected one of: onnx, openvino, coreml, tflite"),
        ("onnx", "int3", "precision 'int3' is not known"),
        ("onnx", "int4-weights", "onnx has no int4-weights, expected one of: fp32"),
    ],
)
def test_what_is_not_known_is_refused(exporter: Exporter, target: str, precision: str, reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        exporter.export(target, precision)


def test_an_exporter_gets_the_sizes_that_were_asked_for(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = []

    def note(_: Sam, plan: Plan) -> Exported:
        plans.append(plan)
        raise ExportError("enough")

    monkeypatch.setattr(to_onnx, "export", note)
    sizes = Sizes((1, 16), (2, 8))
    with Exporter(Request(str(weights), tmp_path, threads=1, sizes=sizes)) as exporter, pytest.raises(ExportError):
        exporter.export("onnx", "fp32")
    assert [plan.sizes for plan in plans] == [sizes]


def test_speed_is_measured_against_the_targets_own_float(exported_once: None, weights: Path, tmp_path: Path) -> None:
    with Exporter(Request(str(weights), tmp_path, threads=1)) as exporter:
        speed = exporter.export("onnx", "fp16").certificate["speed"]
    assert speed["threads"] == 1 and speed["encode_ms"] > 0 and 0.2 < speed["encode_speedup"] < 5
