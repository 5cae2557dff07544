from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sam_edge.benchmarks.matrix import expand
from sam_edge.errors import ArtifactError


def test_a_name_takes_what_the_package_has() -> None:
    (row,) = expand(["nano"], ["auto"], [], [], [2])
    assert (row.model, row.runtime, row.precision, row.size_px, row.threads) == ("nano", "onnx", "fp16", 512, 2)
    assert not row.unavailable
    assert row.name == "nano onnx fp16 512 px 2 threads"


def test_every_combination_is_a_row() -> None:
    rows = expand(["nano"], ["onnx", "torch"], ["fp16", "fp32"], [256, 512], [1, 2])
    assert len(rows) == len({row.name for row in rows}) == 16
    possible = {(row.runtime, row.precision, row.size_px) for row in rows if not row.unavailable}
    assert possible == {("onnx", "fp16", 512), ("torch", "fp32", 256), ("torch", "fp32", 512)}


def test_what_a_name_lacks_is_a_row_with_the_command_that_makes_it() -> None:
    (row,) = expand(["nano"], ["tflite"], ["int8"], [256], [1])
    assert "sam-edge export --model nano --to tflite --precision int8 --size 256" in row.unavailable


def test_an_unknown_runtime_or_model_is_a_row_that_says_so() -> None:
    known, unknown = expand(["nano"], ["onnx", "abacus"], [], [], [1])
    assert not known.unavailable and "'abacus' is not known" in unknown.unavailable
    (row,) = expand(["nowhere"], ["onnx"], [], [], [1])
    assert "'nowhere'" in row.unavailable


def test_artifacts_are_found_by_model_target_precision_and_size(small_model: Path, tmp_path: Path) -> None:
    shutil.copytree(small_model, tmp_path / "out" / "small-64-onnx-fp32")
    (tmp_path / "out" / "no artifact").mkdir()
    (row,) = expand(["small"], ["onnx"], ["fp32"], [64], [1], [tmp_path / "out"])
    assert row.path == str(tmp_path / "out" / "small-64-onnx-fp32") and not row.unavailable
    (row,) = expand(["small"], ["onnx"], ["int8"], [], [1], [tmp_path / "out"])
    assert "no int8 onnx artifact of small" in row.unavailable
    with pytest.raises(ArtifactError, match="no folder"):
        expand(["small"], ["onnx"], [], [], [1], [tmp_path / "nowhere"])


def test_a_folder_is_one_row_a_thread_count_whatever_else_is_asked(small_model: Path) -> None:
    rows = expand([str(small_model)], ["tflite", "onnx"], ["fp32", "int8"], [64, 128], [1, 2])
    assert [(row.runtime, row.precision, row.size_px, row.threads) for row in rows] == [
        ("onnx", "fp32", 64, 1),
        ("onnx", "fp32", 64, 2),
    ]
    (row,) = expand([str(small_model)], ["tflite"], [], [], [1])
    assert "is for onnx" in row.unavailable


def test_two_artifacts_of_the_same_kind_keep_apart(small_model: Path, tmp_path: Path) -> None:
    shutil.copytree(small_model, tmp_path / "other")
    names = [row.name for row in expand([str(small_model), str(tmp_path / "other")], ["auto"], [], [], [1])]
    assert len(set(names)) == 2 and "small in other onnx fp32 64 px 1 threads" in names

    again = tmp_path / "again" / "other"
    shutil.copytree(small_model, again)
    names = [row.name for row in expand([str(tmp_path / "other"), str(again)], ["auto"], [], [], [1])]
    assert len(set(names)) == 2 and any(str(again) in name for name in names)


def test_a_damaged_folder_is_a_row_that_says_so(small_model: Path, tmp_path: Path) -> None:
    shutil.copytree(small_model, tmp_path / "damaged")
    (tmp_path / "damaged" / "manifest.json").write_text("{")
    (row,) = expand([str(tmp_path / "damaged")], ["onnx"], [], [], [1])
    assert "manifest" in row.unavailable
