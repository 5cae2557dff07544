from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from sam_edge.benchmarks.aims import table
from sam_edge.benchmarks.cards import PAGES, RESULTS, render

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", [str(page) for page in PAGES])
def test_the_figures_on_a_page_are_those_of_the_committed_records(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- figures:" in text
    assert render(text, ROOT / RESULTS) == text, "run: make cards"


def test_a_changed_record_changes_the_page(tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(ROOT / RESULTS, results)
    record = results / "nano-quality.jsonl"
    record.write_text(record.read_text().replace('"miou_percent": ', '"miou_percent": 1'))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert render(text, results) != text


def test_a_block_without_a_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "nano-quality.jsonl").write_text("")
    with pytest.raises(KeyError, match="cocoval"):
        render("<!-- figures: quality cocoval -->\n<!-- end -->", tmp_path)


def test_an_aim_says_whether_it_is_reached_and_by_how_much_it_is_not() -> None:
    def quality(**miou: float) -> dict[str, Any]:
        kinds = {name.replace("_", "-"): {"miou_percent": value} for name, value in miou.items()}
        return {
            "kinds": kinds,
            "predicted_iou": {"pearson_correlation": 0.71},
            "second_look": {"box": {"gain_points": 2.0}},
        }

    def timed(runtime: str, precision: str, encode: float, click: float, **more: Any) -> dict[str, Any]:
        stages = {"encode": {"p50_ms": encode}, "click": {"p50_ms": click}}
        return {"configuration": {"runtime": runtime, "precision": precision}, "stages": stages, **more}

    measured = [
        timed("onnx", "int8", 1.0, 1.0),  # measured again below: the last one counts
        timed("onnx", "int8", 20.0, 9.0),
        timed("tflite", "fp32", 50.0, 8.0),
        timed("tflite", "int8", 1.0, 1.0, null_of="x"),  # the same configuration twice, to see the noise
    ]
    cocoval = quality(box=74.0, click=57.0, click_multi=58.5, click3=69.0)
    lines = table(cocoval, quality(box=91.0, click=83.9), measured).splitlines()
    assert "| `cocoval`, box, one look | at least 75 % | 74.0 % | misses by 1.0 |" in lines
    assert "| `cocoval`, click, one look | at least 56 % | 57.0 % | reached |" in lines
    assert "| `cocoval`, three clicks, one look | at least 69 % | 69.0 % | reached |" in lines
    assert "| encode at 512 px: onnx int8 | at most 30 ms | 20.0 ms | reached |" in lines
    assert "| a click: tflite fp32 | at most 6 ms | 8.0 ms | misses by 2.0 |" in lines
    assert any(line.endswith("| at least 0.7 | 0.71 | reached |") for line in lines)
    assert any(line.endswith("| at least 2 | 1.5 | misses by 0.5 |") for line in lines)
    cocoval["kinds"]["click-multi"]["miou_percent"] = 56.99
    assert table(cocoval, cocoval, measured).count("| at least 2 | 0.0 | misses by 2.0 |") == 1  # and not -0.0
