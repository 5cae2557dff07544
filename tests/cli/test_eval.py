"""`sam-edge eval` on a real data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sam_edge.cli import main
from tests.cli.command_line import run
from tests.sa1b import OUTLINES, write_set, write_tar


def test_the_table_is_on_standard_output_and_nothing_else(small_model: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    done = run("eval", "set", "--model", small_model, "--kinds", "box,click", "--limit", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "small on onnx: set, 2 photos (the first 2 by name of 3), 6 objects"
    for row in ("box", "click", "click-multi", "click-oracle", "free: ellipse in box", "free: disc at click"):
        assert any(line.startswith(f"| {row} ") for line in lines), row


def test_the_record_says_what_was_measured_on_what(small_model: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    done = run(
        "eval", "set", "--model", small_model, "--kinds", "box,noc", "--json", "--pictures", "sheets", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert next(iter(record)) == "schema"
    assert (record["schema"], record["protocol_version"]) == ("sam-edge/eval/1", 1)
    assert record["command"].startswith("sam-edge eval set --model ")
    manifest = json.loads((small_model / "manifest.json").read_text())
    hashes = {file["name"]: file["sha256"] for file in record["model"]["files"]}
    assert hashes["decoder.onnx"] == manifest["files"]["decoder.onnx"]["sha256"]
    objects = sum(len(outlines) for outlines in OUTLINES.values())
    assert record["data"]["objects_evaluated"] == record["kinds"]["box"]["objects"] == objects
    assert len(record["data"]["sha256"]) == 64
    assert record["noc"]["limit_clicks"] == 20
    assert "predicted_iou" not in record, "it is defined over box and click"
    assert (tmp_path / "sheets" / "box.png").stat().st_size > 10_000


def test_a_record_of_a_name_in_torch_names_the_weights_that_were_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sam_edge.evaluate.provenance import file_facts
    from sam_edge.model.checkpoints import NANO_WEIGHTS

    folder = write_set(tmp_path / "set")
    arguments = ["--runtime", "torch", "--kinds", "box", "--limit", "1", "--no-baselines", "--json"]
    assert main(["eval", str(folder), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["files"] == [file_facts(NANO_WEIGHTS)]


def test_results_repeat(small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_set(tmp_path / "set")
    tar = write_tar(tmp_path / "set.tar", folder)
    arguments = ["--model", str(small_model), "--kinds", "box-jitter,click3", "--no-baselines", "--json"]
    kinds = []
    for data in (folder, folder, tar):
        assert main(["eval", str(data), *arguments]) == 0
        kinds.append(json.loads(capsys.readouterr().out)["kinds"])
    assert kinds[0] == kinds[1]
    assert kinds[0]["click3"]["miou_percent"] == kinds[2]["click3"]["miou_percent"]


def test_the_shipped_model_beats_what_needs_no_model_on_the_bundled_photos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the ellipse: half of these nine objects are round, and were outlined as coarsely as an ellipse is."""
    folder = write_set(tmp_path / "set")
    assert main(["eval", str(folder), "--kinds", "box,click", "--json"]) == 0
    kinds = json.loads(capsys.readouterr().out)["kinds"]
    assert kinds["box"]["miou_percent"] > kinds["filled box"]["miou_percent"] + 3
    assert kinds["box"]["miou_percent"] > kinds["GrabCut from box"]["miou_percent"]
    assert kinds["click"]["miou_percent"] > kinds["disc at click"]["miou_percent"]


def test_an_unknown_kind_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(tmp_path), "--kinds", "box,lasso"]) == 2
    assert "lasso" in capsys.readouterr().err


def test_kinds_and_the_protocols_are_the_same() -> None:
    from sam_edge.cli import eval as command
    from sam_edge.evaluate import protocol

    assert command.KIND_NAMES == protocol.KINDS
    assert command.DEFAULT_KINDS == protocol.DEFAULT_KINDS


def test_a_second_look_is_reported_beside_the_first_with_its_gain(small_model: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    arguments = ["eval", "set", "--model", small_model, "--kinds", "box,click", "--no-baselines", "--refine", "--json"]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    kinds = record["kinds"]
    assert {"box", "box-refine", "click", "click-refine"} <= kinds.keys()
    gain = record["second_look"]["box"]
    difference = kinds["box-refine"]["miou_percent"] - kinds["box"]["miou_percent"]
    assert gain["gain_points"] == pytest.approx(difference, abs=0.002)
    assert gain["gain_low_points"] <= gain["gain_points"] <= gain["gain_high_points"]
