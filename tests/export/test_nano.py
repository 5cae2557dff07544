"""The build of the shipped artifact, with a tiny model and the example photos."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sam_edge.artifact import open_artifact
from sam_edge.contract import LABEL_EMPTY, Runtime
from sam_edge.errors import ExportError
from sam_edge.export import nano as build
from sam_edge.export.parity import mask_ious
from sam_edge.golden_vectors import compare
from sam_edge.image import read_photo
from sam_edge.model.checkpoints import save_checkpoint
from sam_edge.model.sam import Sam
from sam_edge.runtimes import with_onnxruntime
from sam_edge.runtimes.with_torch import TorchRuntime


@pytest.fixture(scope="module")
def weights(nano: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(nano, path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Two of the example photos, small."""
    paths = []
    for name in ("astronaut.jpg", "coffee.jpg"):
        paths.append(tmp_path / name)
        with Image.open(build.PHOTOS / name) as photo:
            photo.resize((photo.width // 4, photo.height // 4)).save(paths[-1])
    return paths


@pytest.fixture(autouse=True)
def exported_once(monkeypatch: pytest.MonkeyPatch, nano_files: dict[str, bytes]) -> None:
    """The export takes seconds and has its own tests; the rest of the build is real."""
    monkeypatch.setattr(build, "to_onnx_bytes", lambda *_, **__: nano_files)


def test_the_build_gives_a_folder_that_loads_and_agrees_with_torch(
    weights: Path, photos: list[Path], tmp_path: Path, nano: Sam
) -> None:
    artifact, ious = build.build_artifact(weights, tmp_path / "out", photos, command="build it")
    manifest = open_artifact(tmp_path / "out").manifest
    assert (
        manifest.command == "build it"
        and "MODEL_CARD.md" in manifest.licence
        and "MODEL_CARD.md" in manifest.training_data
    )
    assert manifest.parameters == sum(x.numel() for x in nano.parameters())
    assert manifest.config == json.loads(json.dumps(nano.config.to_dict()))
    assert {"python", "torch", "onnx", "onnxruntime"} <= manifest.tool_versions.keys()
    runtime = with_onnxruntime.load(tmp_path / "out", 1)  # with its canary
    golden = artifact.read_golden()
    difference = compare(runtime, golden)
    assert difference.logits <= 1e-3 and difference.mask_iou >= 0.99
    labels = golden[0].prompts.point_labels
    assert (
        labels.shape == (4, 3)
        and (labels == LABEL_EMPTY).any()
        and golden[0].prompts.has_mask_input.tolist() == [0, 0, 0, 1]
    )
    assert len(ious["click"]) == 50 and min(map(np.mean, ious.values())) >= build.MIN_MEAN_MASK_IOU


def test_graphs_of_other_weights_are_not_written(photos: list[Path], tmp_path: Path, nano: Sam) -> None:
    other = copy.deepcopy(nano)
    with torch.no_grad():
        other.mask_decoder.mask_tokens.weight.mul_(1.05)
    changed = tmp_path / "changed.safetensors"
    save_checkpoint(other, changed)
    with pytest.raises(ExportError, match="logits of the exported graphs differ from torch by"):
        build.build_artifact(changed, tmp_path / "out", photos)
    assert not (tmp_path / "out").exists()


def test_masks_below_the_bound_are_not_written_and_say_by_how_much(
    weights: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "MIN_MEAN_MASK_IOU", 1.01)
    with pytest.raises(ExportError, match=r"click masks of the export have mean IoU .* \(50 prompts\), expected 1\.01"):
        build.build_artifact(weights, tmp_path / "out", photos)
    assert not (tmp_path / "out").exists()


def test_one_photo_is_too_few(weights: Path, photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="got 1 photos, expected two or more"):
        build.build_artifact(weights, tmp_path / "out", photos[:1])


def test_parity_is_one_for_the_same_runtime_and_lower_for_another(photos: list[Path], nano: Sam) -> None:
    other = copy.deepcopy(nano)
    with torch.no_grad():
        other.mask_decoder.mask_tokens.weight.add_(0.5)
    runtimes: list[Runtime] = [TorchRuntime(nano), TorchRuntime(other)]
    pictures = [read_photo(path) for path in photos]
    assert all(set(ious) == {1.0} for ious in mask_ious(runtimes[0], runtimes[0], pictures).values())
    assert min(mask_ious(runtimes[0], runtimes[1], pictures)["click"]) < 0.9


def test_the_command_line_reports_and_keeps_absolute_paths_out_of_the_manifest(
    weights: Path,
    photos: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build, "PHOTOS", photos[0].parent)
    assert build.main(["--weights", str(weights), "--out", str(tmp_path / "out")]) == 0
    assert "click: mask IoU with torch mean" in capsys.readouterr().out
    text = (tmp_path / "out" / "manifest.json").read_text()
    assert json.loads(text)["command"] == "python -m sam_edge.export.nano --weights tiny.safetensors --out out"
    assert str(tmp_path) not in text
    assert build.main(["--weights", str(tmp_path / "missing.safetensors"), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
