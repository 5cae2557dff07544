"""The build of the shipped artifact, with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sam_edge.artifact import open_artifact
from sam_edge.contract import LABEL_EMPTY
from sam_edge.errors import ExportError
from sam_edge.export import nano as build
from sam_edge.export import to_onnx
from sam_edge.export.graphs import exported_values
from sam_edge.golden_vectors import compare
from sam_edge.model.checkpoints import save_checkpoint
from sam_edge.model.sam import Sam
from sam_edge.runtimes import with_onnxruntime


@pytest.fixture(scope="module")
def weights(nano: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(exported_values(nano, "float16"), path)  # as a release: float16 holds it exactly
    return path


@pytest.fixture(autouse=True)
def exported_once(monkeypatch: pytest.MonkeyPatch, nano_files: dict[str, bytes]) -> None:
    """The export takes seconds and has its own tests; the rest of the build is real."""
    monkeypatch.setattr(to_onnx, "to_onnx_bytes", lambda *_, **__: nano_files)


def test_the_build_gives_a_folder_that_loads_and_agrees_with_torch(weights: Path, tmp_path: Path, nano: Sam) -> None:
    artifact = build.build_artifact(weights, tmp_path / "out", command="build it")
    manifest = open_artifact(tmp_path / "out").manifest
    assert (
        manifest.command == "build it"
        and "MODEL_CARD.md" in manifest.licence
        and "MODEL_CARD.md" in manifest.training_data
    )
    assert manifest.parameters == sum(x.numel() for x in nano.parameters())
    assert manifest.config == json.loads(json.dumps(nano.config.to_dict()))
    assert (manifest.precision, manifest.weights_stored) == ("float32", "float16")
    assert {"python", "torch", "onnx", "onnxruntime"} <= manifest.tool_versions.keys()
    certificate = json.loads(artifact.read_file("certificate.json"))
    assert certificate["passed"] and certificate["data"]["bundled"] and "speed" not in certificate
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


def test_graphs_of_other_weights_are_not_written(tmp_path: Path, nano: Sam) -> None:
    import copy

    other = copy.deepcopy(nano)
    other.mask_decoder.mask_tokens.weight.data.add_(0.5)
    changed = tmp_path / "changed.safetensors"
    save_checkpoint(other, changed)
    with pytest.raises(ExportError, match="misses its certificate in ONNX: box: mask_iou_mean is"):
        build.build_artifact(changed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_reports_and_keeps_absolute_paths_out_of_the_manifest(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.main(["--weights", str(weights), "--out", str(tmp_path / "out")]) == 0
    assert "MB" in capsys.readouterr().out
    text = (tmp_path / "out" / "manifest.json").read_text()
    assert json.loads(text)["command"] == "python -m sam_edge.export.nano --weights tiny.safetensors --out out"
    assert str(tmp_path) not in text
    assert build.main(["--weights", str(tmp_path / "missing.safetensors"), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
