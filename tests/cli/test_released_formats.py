"""The released model in every format and precision, certified on a small subset of photos.

`benchmarks/results/nano-export.jsonl` has the same certificates on photos of the evaluation sets.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.command_line import run
from tests.sa1b import PHOTOS

CALIBRATING, JUDGING = ("astronaut", "chelsea"), ("coffee",)  # never the same photos
OBJECTS = len(json.loads((PHOTOS / "coffee.json").read_text())["annotations"])
PRECISIONS = ("fp32", "fp16", "int8")


@pytest.mark.parametrize("target", ["onnx", "openvino", "coreml", "tflite"])
def test_the_released_model_passes_its_certificate_in_every_precision(target: str, tmp_path: Path) -> None:
    for folder, names in (("calibrate", CALIBRATING), ("judge", JUDGING)):
        (tmp_path / folder).mkdir()
        for name in names:
            for suffix in (".jpg", ".json"):
                shutil.copy(PHOTOS / f"{name}{suffix}", tmp_path / folder)
    options = ("--calibrate", "calibrate", "--data", "judge", "--no-speed", "--threads", 1, "-o", "out", "--json")
    done = run("export", "--model", "nano", "--to", target, "--precision", *PRECISIONS, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["precision"], row["passed"]) for row in rows] == [(precision, True) for precision in PRECISIONS]
    for row in rows:
        kinds = row["certificate"]["kinds"]
        assert {name: kind["prompts"] for name, kind in kinds.items()} == dict.fromkeys(
            ("box", "click", "click3", "mask"), OBJECTS
        )
        assert kinds["box"]["mask_iou_mean"] >= (0.9 if row["precision"] == "int8" else 0.99)
    by_precision = {row["precision"]: row["bytes"] for row in rows}
    assert by_precision["int8"] < by_precision["fp16"] < by_precision["fp32"]
