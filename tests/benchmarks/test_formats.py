"""The table of formats says what the certificates in the folders say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from click.testing import CliRunner

from sam_edge.artifact import CERTIFICATE_NAME, open_artifact
from sam_edge.benchmarks.formats import main, newest, record, table
from sam_edge.runtimes import ASSETS

NANO = ASSETS / "nano"


def test_a_record_holds_the_certificate_and_what_was_certified() -> None:
    line = record(NANO)
    artifact = open_artifact(NANO)
    assert line["certificate"] == json.loads((NANO / CERTIFICATE_NAME).read_text())
    assert (line["target"], line["precision"], line["bytes"]) == ("onnx", "fp16", artifact.size_bytes)
    assert line["checkpoint_sha256"] == artifact.manifest.checkpoint_sha256


def test_the_table_shows_the_figures_of_the_certificate() -> None:
    line = record(NANO)
    line["certificate"]["kinds"]["click"]["mask_iou_mean"] = 0.98765
    line["certificate"]["kinds"]["click3"]["retention"] = 0.9411
    line["certificate"]["passed"] = False
    measured = {
        "image_size_px": line["image_size_px"],
        "configuration": {"runtime": "onnx", "precision": "fp16"},
        "stages": {"encode": {"p50_ms": 12.34}, "click": {"p50_ms": 5.0}},
    }
    row = table([line], [measured]).splitlines()[-1]
    assert row.startswith("| onnx | fp16 |")
    for cell in ("| 0.9877 |", "| 94.1 % |", "| 12.3 ms | 5.0 ms | missed |"):
        assert cell in row


def test_a_format_without_a_measurement_says_so() -> None:
    other = {"image_size_px": 512, "configuration": {"runtime": "tflite", "precision": "fp16"}, "stages": {}}
    again = {
        "image_size_px": 512,
        "configuration": {"runtime": "onnx", "precision": "fp16"},
        "null_of": "x",
        "stages": {},
    }
    assert table([record(NANO)], [other, again]).count("not measured yet") == 2


def test_only_the_newest_record_of_a_format_is_shown() -> None:
    old, new, other = record(NANO), record(NANO), record(NANO)
    old["bytes"], other["target"] = 1, "tflite"
    assert newest([old, other, new]) == [new, other]


def test_records_of_replaced_weights_are_not_shown_beside_the_new_ones() -> None:
    old, new = record(NANO), record(NANO)
    old["checkpoint_sha256"], old["target"] = "0" * 64, "tflite"
    assert newest([old, new]) == [new]


def test_folders_are_appended_to_the_records(tmp_path: Path) -> None:
    copy, out = tmp_path / "copy", tmp_path / "export.jsonl"
    shutil.copytree(NANO, copy)
    for _ in range(2):
        result = CliRunner().invoke(main, [str(copy), "-o", str(out)])
        assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["model"] for line in lines] == ["nano", "nano"]
    assert "| onnx | fp16 |" in result.output
