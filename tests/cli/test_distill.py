from __future__ import annotations

import json
import shutil
from pathlib import Path

from sam_edge.model.checkpoints import load_model, save_checkpoint
from tests.cli.command_line import assert_one_line_error, run
from tests.sa1b import PHOTOS
from tests.tiny_models import TINY_CONFIGS, tiny_model


def test_a_student_is_distilled_from_a_folder_and_the_run_is_continued(tmp_path: Path) -> None:
    save_checkpoint(tiny_model("vit"), tmp_path / "teacher.safetensors")
    (tmp_path / "student.json").write_text(json.dumps(TINY_CONFIGS["tinyvit"].to_dict()))
    (tmp_path / "photos").mkdir()
    for path in PHOTOS.glob("*.jpg"):
        shutil.copy(path, tmp_path / "photos")
    options = ("--teacher", "teacher.safetensors", "--student", "student.json", "--data", "photos", "-o", "run")
    options += ("--steps", "2", "--mask-steps", "1", "--photos", "2", "--held-out", "1", "--workers", "0", "--json")
    first = run("distill", *options, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    report = json.loads(first.stdout)
    assert report["embeddings"]["step"] == 2 and report["masks"]["step"] == 1
    assert 0 <= report["masks"]["held_out_teacher_iou"] <= 1
    assert load_model(tmp_path / report["checkpoint"]).config == TINY_CONFIGS["tinyvit"]
    states = [path.read_bytes() for path in sorted((tmp_path / "run").glob("*/state.pt"))]

    again = run("distill", *options, cwd=tmp_path)  # nothing is left to do
    assert again.returncode == 0, again.stderr
    assert [path.read_bytes() for path in sorted((tmp_path / "run").glob("*/state.pt"))] == states
    done = run("distill", *options, "--lr", "0.1", "--stage", "masks", cwd=tmp_path)
    assert "lr: was 0.0006, now 0.1" in done.stderr and done.returncode == 1 and not done.stdout


def test_a_student_that_is_nothing_and_a_name_without_weights_are_one_line(tmp_path: Path) -> None:
    save_checkpoint(tiny_model("vit"), tmp_path / "teacher.safetensors")
    options = ("--student", "nano_sam", "--data", "photos", "-o", "run")
    assert_one_line_error(run("distill", "--teacher", "vit_b", *options, cwd=tmp_path), "sam_vit_b_01ec64.pth")
    done = run("distill", "--teacher", "teacher.safetensors", *options, cwd=tmp_path)
    assert_one_line_error(done, "(256, 64, 64), expected the teacher's (32, 4, 4)")
