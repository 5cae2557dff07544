"""`sam-edge segment` on real photos: outputs, formats, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_edge.cli import main
from sam_edge.evaluate.metrics import mask_iou
from sam_edge.rle import coco_to_mask
from tests.cli.command_line import run
from tests.sa1b import outline_mask

CAT_BOX = "0,0,388,300"


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def segment_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert main(["segment", *map(str, arguments), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_the_shipped_model_finds_the_cat(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = segment_json(capsys, photo, "--box", CAT_BOX)
    assert (result["model"], result["runtime"]) == ("nano", "onnx")
    assert result["image"] == {"width": 451, "height": 300}
    assert list(result["timings_ms"]) == ["load", "preprocess", "encode", "decode", "postprocess"]
    assert all(duration > 0 for duration in result["timings_ms"].values())
    (mask,) = result["masks"]
    assert set(mask) == {"predicted_iou", "stability_score", "area", "bbox", "segmentation"}
    drawn = coco_to_mask(mask["segmentation"])
    assert drawn.shape == (300, 451)
    assert drawn.sum() == mask["area"]
    assert mask_iou(drawn, outline_mask("chelsea", "cat")) > 0.75
    assert not list(Path.cwd().iterdir()), "with --json nothing is written unless -o asks for it"


def check_everything(result: dict[str, Any]) -> None:
    assert list(result["timings_ms"]) == ["load", "preprocess", "encode", "decode", "postprocess"]
    for mask in result["masks"]:
        assert set(mask) == {"predicted_iou", "stability_score", "area", "bbox", "segmentation"}
        assert coco_to_mask(mask["segmentation"]).sum() == mask["area"]


@pytest.mark.slow
def test_the_shipped_model_segments_everything(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_everything(segment_json(capsys, photo, "--everything"))


def test_everything_needs_no_prompt(photo: Path, small_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_everything(segment_json(capsys, photo, "--everything", "--model", small_model))
    assert main(["segment", str(photo), "--everything", "--model", str(small_model)]) == 0
    assert "wrote chelsea.overlay.png" in capsys.readouterr().out


def test_it_writes_an_overlay_beside_you_and_says_so(photo: Path, small_model: Path, tmp_path: Path) -> None:
    done = run("segment", photo, "--point", "200,150", "--model", small_model, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "wrote chelsea.overlay.png"
    assert "predicted IoU" in done.stdout
    assert "encode" in done.stdout
    with Image.open(tmp_path / "chelsea.overlay.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (451, 300))


def test_every_format_shows_the_same_mask(photo: Path, small_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = (photo, "--point", "20,20", "--model", small_model)
    mask = coco_to_mask(segment_json(capsys, *common)["masks"][0]["segmentation"])
    assert 0 < mask.sum() < mask.size
    for format_name, name in (("mask", "m.png"), ("cutout", "c.png"), ("rle", "r.json")):
        assert main(["segment", *map(str, common), "--format", format_name, "-o", name]) == 0
    assert np.array_equal(np.asarray(Image.open("m.png")), np.where(mask, 255, 0))
    assert np.array_equal(coco_to_mask(json.loads(Path("r.json").read_text())[0]), mask)
    cutout = np.asarray(Image.open("c.png"))
    assert cutout.shape[2] == 4
    assert (cutout[..., 3] >= 128).sum() == mask.sum()


def test_each_box_gives_a_mask_and_all_clicks_give_one(
    photo: Path, small_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = segment_json(capsys, photo, "--box", "0,0,90,90", "--box", "90,90,200,200", "--model", small_model)
    assert len(boxes["masks"]) == 2
    assert boxes["masks"][0] != boxes["masks"][1]
    clicks = segment_json(capsys, photo, "--point", "20,20", "--point", "90,90,0", "--model", small_model)
    assert len(clicks["masks"]) == 1


def test_a_second_look_draws_a_finer_mask_of_the_same_object(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nose = ["--box", "150,130,230,190"]
    first, second = segment_json(capsys, photo, *nose), segment_json(capsys, photo, *nose, "--refine")
    assert second["timings_ms"]["second_look"] > 0 and "second_look" not in first["timings_ms"]
    a, b = (coco_to_mask(result["masks"][0]["segmentation"]) for result in (first, second))
    assert 0.4 < mask_iou(a, b) < 1


def test_a_background_click_changes_the_answer(
    photo: Path, small_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (photo, "--model", small_model, "--point", "20,20", "--point")
    foreground, background = (segment_json(capsys, *common, f"200,200,{label}")["masks"][0] for label in (1, 0))
    assert foreground["predicted_iou"] > background["predicted_iou"]


def test_multimask_gives_three_numbered_files(
    photo: Path, small_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = segment_json(capsys, photo, "--point", "9,9", "--multimask", "--model", small_model, "-o", "o.png")
    assert len(result["masks"]) == 3
    assert [Path(name).name for name in result["files"]] == ["o.1.png", "o.2.png", "o.3.png"]
    assert all(Path(name).exists() for name in result["files"])


def test_a_rough_mask_steers_the_result(photo: Path, small_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = np.zeros((300, 451), np.uint8)
    left[:, :200] = 255
    Image.fromarray(left).save("rough.png")
    common = (photo, "--mask", "rough.png", "--model", small_model)
    drawn = coco_to_mask(segment_json(capsys, *common)["masks"][0]["segmentation"])
    assert drawn[:, :180].mean() > 0.95  # the small model adds the prompt's ±8 to logits of about ±2
    assert drawn[:, 220:].mean() < 0.05


def test_a_rough_mask_of_another_size_is_refused(photo: Path, small_model: Path, tmp_path: Path) -> None:
    Image.new("L", (300, 451)).save("rough.png")
    done = run("segment", photo, "--mask", "rough.png", "--model", small_model, cwd=tmp_path)
    assert done.returncode == 1
    assert "rough.png is 300 x 451 pixels, expected 451 x 300 like the photo" in done.stderr


def test_an_empty_mask_is_no_cutout(small_model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save("black.png")
    done = run("segment", "black.png", "--point", "0,0", "--format", "cutout", "--model", small_model, cwd=tmp_path)
    assert done.returncode == 1
    assert "nothing to cut out" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["black.png"]


def test_the_photo_is_never_replaced(photo: Path, small_model: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.png"
    Image.open(photo).save(own)
    before = own.read_bytes()
    done = run("segment", "own.png", "--point", "9,9", "--model", small_model, "-o", "./own.png", cwd=tmp_path)
    assert done.returncode == 1
    assert "is the photo itself" in done.stderr
    assert own.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --point, --box, --mask or --everything. Example: sam-edge segment photo.jpg --point 320,240"),
        (["--everything", "--point", "3,3"], "--everything takes no prompt"),
        (["--box", "1,1,9,9", "--box", "2,2,9,9", "--point", "3,3"], "at most one --box"),
        (["--point", "3"], "expected X,Y"),
        (["--point", "3,4,2"], "expected X,Y"),
        (["--point", "a,4"], "not a number"),
        (["--box", "1,2,3"], "expected four numbers"),
        (["--point", "3,4", "--format", "cutout", "-o", "x.jpg"], "expected a name ending in .png or .webp"),
        (["--point", "3,4", "-o", "x"], "expected a name ending in .png"),
        (["--colour"], "No such option"),
    ],
)
def test_wrong_usage_is_explained_with_status_2(
    photo: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["segment", str(photo), *arguments]) == 2
    printed = capsys.readouterr()
    assert message in " ".join(printed.err.split())
    assert not printed.out
