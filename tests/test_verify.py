"""A folder that was tampered with, and one that computes something else, are found without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from sam_edge.artifact import open_artifact, write_artifact
from sam_edge.cli import main
from sam_edge.errors import ArtifactError
from sam_edge.runtimes import ASSETS
from sam_edge.verify import verify
from tests.small_artifact import ENCODER, small_graph, whole_artifact

NANO = ASSETS / "nano"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(NANO, tmp_path / "nano"))


def rewritten(folder: Path, out: Path, **certificate: object) -> Path:
    """The artifact with another certificate, hashes and all."""
    artifact = open_artifact(folder)
    files = {name: artifact.read_file(name) for name in artifact.manifest.files}
    found = json.loads(files["certificate.json"]) | certificate
    files["certificate.json"] = json.dumps(found).encode()
    write_artifact(out, artifact.manifest, files)
    return out


def test_the_shipped_artifact_verifies_in_a_process_without_torch() -> None:
    script = (
        "import sys\n"
        "from sam_edge.verify import verify\n"
        f"found = verify({str(NANO)!r}, threads=1)\n"
        "assert found.passed, found\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["encoder.onnx", "golden.npz", "certificate.json"])
def test_a_changed_or_missing_file_is_refused(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match="is not the file of its manifest"):
        verify(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        verify(folder)


def test_a_folder_without_certificate_was_never_certified(folder: Path, tmp_path: Path) -> None:
    artifact = open_artifact(folder)
    files = {name: artifact.read_file(name) for name in artifact.manifest.files if name != "certificate.json"}
    write_artifact(tmp_path / "bare", artifact.manifest, files)
    with pytest.raises(ArtifactError, match=r"has no certificate\.json: it was never certified"):
        verify(tmp_path / "bare")


def test_bounds_are_those_of_the_certificate(folder: Path, tmp_path: Path) -> None:
    better = {"mask_iou_min": 1.1, "logits_max_abs_error": 0.0, "iou_predictions_max_abs_error": 0.0}
    found = verify(rewritten(folder, tmp_path / "better", golden=better), threads=1)
    assert not found.passed and "expected at least 1.07" in str(found.checks["masks"])
    found = verify(rewritten(folder, tmp_path / "failed", passed=False, missed=["box: ..."]), threads=1)
    assert not found.passed and found.checks["certificate"] == "it did not pass: box: ..."


def test_a_certificate_without_a_number_is_read_and_does_not_pass(folder: Path, tmp_path: Path) -> None:
    """`export --allow-fail` writes null for NaN."""
    golden = {"mask_iou_min": None, "logits_max_abs_error": None, "iou_predictions_max_abs_error": None}
    found = verify(rewritten(folder, tmp_path / "null", golden=golden), threads=1)
    assert not found.passed and "expected at least nan" in str(found.checks["masks"])


def of_nan(model: onnx.ModelProto) -> None:
    """Weights that overflowed on their way to the file."""
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "narrow")
    weights.CopyFrom(onnx.numpy_helper.from_array(np.full((2, 3, 1, 1), np.nan, np.float32), "narrow"))


def test_an_artifact_that_computes_nan_fails_and_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = open_artifact(whole_artifact(tmp_path))
    files = {name: whole.read_file(name) for name in whole.manifest.files}
    certificate = {"passed": True, "missed": [], "golden": {"mask_iou_min": 1, "iou_predictions_max_abs_error": 0}}
    files |= {"encoder.onnx": small_graph(ENCODER, of_nan), "certificate.json": json.dumps(certificate).encode()}
    write_artifact(tmp_path / "nan", whole.manifest, files)
    assert main(["verify", str(tmp_path / "nan"), "--threads", "1", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["figures"]["golden_logits_max_abs_error"] is None and not found["passed"]


def test_a_certificate_that_is_none_gives_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"certificate\.json is no certificate"):
        verify(rewritten(folder, tmp_path / "odd", golden="yes"))
