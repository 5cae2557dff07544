"""Records and tables of evaluations."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sam_edge.evaluate import provenance, report
from sam_edge.evaluate.protocol import ClickCount, Evaluation, Score
from tests.small_artifact import small_artifact


def score(kind: str, photo: int, iou: float, predicted: float | None = None, size: str = "small") -> Score:
    return Score(kind, photo, 10 * photo, "coco" if photo % 2 else "duts", size, iou, iou / 2, predicted)


def evaluation() -> Evaluation:
    result = Evaluation(photos=4, objects=4)
    for photo, iou in enumerate((0.5, 0.7, 0.9, 0.95)):
        result.add(score("box", photo, iou, predicted=iou - 0.1, size="large" if photo else "small"))
        result.add(score("click", photo, iou / 2, predicted=iou / 2 + 0.1))
        result.add(score("ellipse in box", photo, 0.6))
    return result


def test_a_summary_counts_shares_sizes_and_sources() -> None:
    box = report.summarise(evaluation())["kinds"]["box"]
    assert box["miou_percent"] == pytest.approx(76.25)
    assert box["boundary_iou_percent"] == pytest.approx(38.125)
    assert box["miou_low_percent"] < 76.25 < box["miou_high_percent"]
    assert [box[f"share_at_iou_{level}_percent"] for level in (50, 75, 90)] == [100, 50, 50]
    assert {size: part["objects"] for size, part in box["by_size"].items()} == {"small": 1, "large": 3}
    assert box["by_source"]["coco"]["miou_percent"] == pytest.approx(82.5)


def test_predicted_iou_is_judged_over_box_and_click_together() -> None:
    result = evaluation()
    predicted = report.summarise(result)["predicted_iou"]
    both = result.of("box") + result.of("click")
    expected = np.corrcoef([s.iou for s in both], [s.predicted_iou for s in both])[0, 1]
    assert predicted["prompts"] == 8
    assert predicted["pearson_correlation"] == pytest.approx(expected)
    assert predicted["mean_absolute_error_percent"] == pytest.approx(10)


def test_what_was_not_measured_is_absent() -> None:
    result = Evaluation()
    result.add(score("box", 0, 0.5, 0.5))
    summary = report.summarise(result)
    assert list(summary) == ["kinds"]
    assert list(summary["kinds"]) == ["box"]
    constant = Evaluation()
    for kind in ("box", "click"):
        constant.add(replace(score(kind, 0, 0.5, 0.4), object_id=3))
    assert "pearson_correlation" not in report.summarise(constant)["predicted_iou"]


def test_a_failed_object_counts_with_the_limit() -> None:
    result = evaluation()
    result.click_counts = [ClickCount(0, 1, {0.85: 2, 0.9: 4}), ClickCount(1, 2, {0.85: 6}), ClickCount(2, 3, {})]
    noc = report.summarise(result)["noc"]
    assert noc["to_iou_85_clicks"] == pytest.approx((2 + 6 + 20) / 3, abs=1e-3)
    assert noc["to_iou_90_clicks"] == pytest.approx((4 + 20 + 20) / 3, abs=1e-3)
    assert noc["to_iou_85_failed_percent"] == pytest.approx(100 / 3, abs=1e-3)
    assert noc["to_iou_90_failed_percent"] == pytest.approx(200 / 3, abs=1e-3)


def test_a_summary_is_plain_json() -> None:
    summary = report.summarise(evaluation())
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_tables_are_markdown_with_baselines_beside_the_model() -> None:
    text = report.tables(report.summarise(evaluation()))
    lines = text.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in table[:5]}) == 1, "the columns of the first table are aligned"
    assert table[2].startswith("| box ")
    assert "76.2" in table[2]
    assert any("free: ellipse in box" in line and "60.0" in line for line in table)
    assert any(line.startswith("| mIoU by source") for line in lines)
    assert "Pearson" in text


def test_an_empty_set_says_so() -> None:
    assert "No object" in report.tables(report.summarise(Evaluation()))


def test_a_data_hash_changes_with_any_file_and_not_with_the_folders_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_text("{}")
        (tmp_path / folder / "x.jpg").write_bytes(b"photo")
    before = provenance.data_sha256([tmp_path / "a"])
    assert before == provenance.data_sha256([tmp_path / "b"])
    (tmp_path / "a" / "x.json").write_text("{ }")
    assert before != provenance.data_sha256([tmp_path / "a"])
    (tmp_path / "b" / "x.jpg").rename(tmp_path / "b" / "y.jpg")
    assert before != provenance.data_sha256([tmp_path / "b"])


def test_a_models_files_are_a_checkpoint_or_what_a_manifest_lists(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"abc")
    assert provenance.model_files(tmp_path / "model.bin") == [
        {"name": "model.bin", "bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    ]
    artifact = small_artifact(tmp_path / "small")
    (tmp_path / "small" / "notes.txt").write_text("nobody loads this")
    files = provenance.model_files(tmp_path / "small")
    assert [file["name"] for file in files] == ["decoder.onnx", "encoder.onnx", "golden.npz", "manifest.json"]
    assert files[1]["sha256"] == artifact.manifest.files["encoder.onnx"].sha256
    assert [file["name"] for file in provenance.device_files(files)] == ["decoder.onnx", "encoder.onnx"]


def test_the_hash_of_several_files_changes_with_any_and_that_of_one_is_its_own() -> None:
    files = [{"name": "encoder.onnx", "sha256": "a"}, {"name": "decoder.onnx", "sha256": "b"}]
    changed = [files[0], files[1] | {"sha256": "c"}]
    assert provenance.files_sha256(files) != provenance.files_sha256(changed)
    assert provenance.files_sha256(files[:1]) == "a"
