from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sam_edge.model.checkpoints import load_model
from tests.cli.command_line import assert_one_line_error, run
from tests.sa1b import write_set
from tests.tiny_models import TINY_CONFIGS


def test_a_model_is_trained_from_a_folder_and_the_run_is_continued(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "photos")
    options = ("--size", 64, "--photos", 1, "--objects", 2, "--held-out", 1, "--workers", 0, "-o", "run", "--json")
    first = run("train", folder, "--steps", 2, *options, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    report = json.loads(first.stdout)
    assert report["step"] == 2 and 0 <= report["held_out_box_miou"] <= 1
    assert (tmp_path / report["checkpoint"]).exists()

    again = run("train", folder, "--steps", 2, *options, cwd=tmp_path)  # nothing is left to do
    assert again.returncode == 0, again.stderr
    assert_one_line_error(run("train", folder, "--steps", 3, *options, cwd=tmp_path), "steps: was 2, now 3")
    finer = run("train", folder, "--steps", 2, "--loss-stride", 1, "--by-objects", *options, cwd=tmp_path)
    assert_one_line_error(finer, "loss_stride: was 4, now 1", "by_objects: was False, now True")


def test_a_folder_without_photos_and_an_unknown_model_are_named(tmp_path: Path) -> None:
    assert_one_line_error(run("train", tmp_path, "-o", "run", cwd=tmp_path), str(tmp_path), "NAME.jpg beside NAME.json")
    folder = write_set(tmp_path / "photos")
    done = run("train", folder, "-o", "run", "--model", "vit_x", "--held-out", 0, cwd=tmp_path)
    assert_one_line_error(done, "vit_x", "nano")


def test_a_configuration_of_ones_own_is_trained_from_nothing_and_another_does_not_continue_it(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "photos")
    config = TINY_CONFIGS["nano"].to_dict()
    config["encoder"]["trunk"] = "mobilenet_v4"
    (tmp_path / "mine.json").write_text(json.dumps(config))
    options = ("--model", "mine.json", "--size", 64, "--photos", 1, "--held-out", 0, "--workers", 0, "--steps", 1)
    done = run("train", folder, *options, "-o", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    model = load_model(str(tmp_path / "run" / "last.safetensors"))
    assert model.config.encoder == replace(TINY_CONFIGS["nano"].encoder, trunk="mobilenet_v4", image_size=64)

    config["encoder"]["trunk"] = "repvit"
    (tmp_path / "mine.json").write_text(json.dumps(config))
    assert_one_line_error(run("train", folder, *options, "-o", "run", cwd=tmp_path), "mobilenet_v4", "repvit")
    (tmp_path / "mine.json").write_text('{"name": "mine"}')
    assert_one_line_error(run("train", folder, *options, "-o", "run", cwd=tmp_path), "mine.json", "encoder")


def test_a_weight_that_is_no_number_is_wrong_usage(tmp_path: Path) -> None:
    done = run("train", tmp_path, "-o", "run", "--source", "coco=much", cwd=tmp_path)
    assert done.returncode == 2 and "coco=much" in done.stderr


@pytest.mark.parametrize(
    "option",
    [
        "--loss-stride=3",
        "--accumulate=0",
        "--validate-every=0",
        "--objects=0",
        "--click-share=1.5",
        "--workers=-1",
        "--steps=0",
        "--lr=0",
    ],
)
def test_a_value_out_of_range_is_wrong_usage(tmp_path: Path, option: str) -> None:
    done = run("train", tmp_path, option, "-o", "run", cwd=tmp_path)
    assert done.returncode == 2 and option.partition("=")[0] in done.stderr
    assert not (tmp_path / "run").exists()
