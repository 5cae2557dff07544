"""`sam-edge export` and `sam-edge verify` as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from sam_edge.cli import main
from sam_edge.cli.arguments import Several
from sam_edge.errors import ExportError
from sam_edge.export import pipeline
from sam_edge.export.plan import Sizes
from sam_edge.model.checkpoints import save_checkpoint
from tests.cli.command_line import assert_one_line_error, run
from tests.sa1b import PHOTOS
from tests.tiny_models import tiny_model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(tiny_model("vit"), path)
    return path


def test_a_checkpoint_becomes_certified_folders_that_verify(weights: Path, tmp_path: Path) -> None:
    options = ("--to", "onnx", "--precision", "fp32", "fp16", "-o", "out", "--threads", 1, "--no-speed", "--json")
    done = run("export", "--model", weights, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["target"], row["precision"], row["stage"], row["passed"]) for row in rows] == [
        ("onnx", "fp32", "done", True),
        ("onnx", "fp16", "done", True),
    ]
    assert rows[1]["bytes"] < rows[0]["bytes"] and rows[0]["seconds"] > 0
    assert rows[0]["certificate"]["kinds"]["click"]["mask_iou_mean"] >= 0.995
    assert "onnx fp32: convert ..." in done.stderr and "passed" in done.stderr
    manifest = json.loads((tmp_path / rows[0]["path"] / "manifest.json").read_text())
    assert manifest["command"].startswith("sam-edge export --model tiny.safetensors") and str(tmp_path) not in str(
        manifest
    )

    verified = run("verify", *(row["path"] for row in rows), cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.count("passed  out/tiny-vit-64-onnx-fp") == 2

    (tmp_path / rows[0]["path"] / "decoder.onnx").write_bytes(b"other")
    assert_one_line_error(run("verify", rows[0]["path"], cwd=tmp_path), "decoder.onnx is not the file of its manifest")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--to", "onx"), ("target 'onx' is not known", "onnx, openvino, coreml, tflite")),
        (("--precision", "int3"), ("precision 'int3' is not known", "fp32, fp16, int8")),
        (("--precision", "int4-weights"), ("onnx has no int4-weights",)),
        (("--model", "vit_b"), ("vit_b has no weights in this package", "sam_vit_b_01ec64.pth")),
        (("--model", "none.pth"), ("none.pth",)),
        (("--size", "500", "--model", "nano"), ("500",)),
        (("--precision", "int8", "--calibrate", "none"), ("none is no folder",)),
        (("--precision", "int8"), ("int8 needs photos to calibrate on", "--calibrate DIR")),
        (("--data", "none"), ("none: does not exist",)),
        (("--to", "tflite", "--tflite-prompts", "1,x"), ("--tflite-prompts is '1,x', expected whole numbers such as",)),
        (("--to", "tflite", "--tflite-points", "8,2"), ("sizes of points are [8, 2], expected rising numbers",)),
        (("--tflite-prompts", "1,16"), ("--tflite-prompts came without tflite, expected `--to tflite`",)),
        (
            ("--to", "onnx", "tflite", "--photo-input"),
            ("--photo-input was given with tflite, expected onnx",),
        ),
        (("--recipe", "none.json"), ("none.json cannot be read as a recipe",)),
    ],
)
def test_what_cannot_be_exported_gives_one_line_and_no_folder(
    weights: Path, tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    model = () if "--model" in arguments else ("--model", weights)
    done = run("export", *model, *arguments, "-o", "out", "--threads", 1, cwd=tmp_path)
    assert done.returncode == 1 and not done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("sam-edge: error: ")]
    assert len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    assert all(part in errors[0] for part in parts), errors
    assert not (tmp_path / "out").exists()


def test_sizes_of_tflite_reach_the_export(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def stop(request: Any, _: Any) -> None:
        asked.append(request)
        raise ExportError("enough")

    monkeypatch.setattr(pipeline, "Exporter", stop)
    arguments = ["export", "--model", str(weights), "--to", "tflite", "-o", str(tmp_path / "out")]
    assert main([*arguments, "--tflite-prompts", "1,16"]) == main(arguments) == 1
    assert [request.sizes for request in asked] == [Sizes(prompts=(1, 16)), Sizes()]


def test_photos_that_judge_may_not_calibrate(weights: Path, tmp_path: Path) -> None:
    done = run("export", "--model", weights, "--precision", "int8", "--calibrate", PHOTOS, "-o", "out", cwd=tmp_path)
    assert_one_line_error(done, "is also among the photos that judge the result")


def test_verifying_what_is_no_artifact_gives_one_line(tmp_path: Path) -> None:
    assert_one_line_error(run("verify", "none", cwd=tmp_path), "none is no folder")
    assert_one_line_error(run("verify", tmp_path, cwd=tmp_path), "manifest.json cannot be read")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--to", "a", "b", "-o", "x"], (("a", "b"), "x")),
        (["--to", "a", "--to", "b", "-o", "x"], (("a", "b"), "x")),
        (["-o", "x", "--to=a", "b"], (("a", "b"), "x")),
        (["-o", "x"], (("d",), "x")),
    ],
)
def test_an_option_takes_all_values_up_to_the_next(arguments: list[str], expected: object) -> None:
    seen = []

    @click.command()
    @click.option("--to", cls=Several, default=["d"])
    @click.option("-o")
    def command(to: tuple[str, ...], o: str) -> None:
        seen.append((to, o))

    assert CliRunner().invoke(command, arguments, standalone_mode=False).exception is None
    assert seen == [expected]
