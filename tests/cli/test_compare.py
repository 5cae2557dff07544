from __future__ import annotations

import json
from pathlib import Path

import pytest

from sam_edge.benchmarks.records import write_records
from sam_edge.cli import main
from tests.benchmarks.made_records import made_record, made_run
from tests.cli.command_line import assert_one_line_error, run

NAMES = ["nano onnx fp32", "nano tflite int8"]


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str, str]:
    """Files of a run, of the same code again, and of one whose second row is 15 % slower."""
    write_records(tmp_path / "old.jsonl", made_run(NAMES, 1))
    write_records(tmp_path / "same.jsonl", made_run(NAMES, 2))
    write_records(
        tmp_path / "slow.jsonl", [made_run(NAMES, 2)[0], made_record(NAMES[1], 9, 1.15), made_run(NAMES, 2)[2]]
    )
    return str(tmp_path / "old.jsonl"), str(tmp_path / "same.jsonl"), str(tmp_path / "slow.jsonl")


def test_the_same_code_is_within_noise(runs: tuple[str, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", runs[0], runs[1], "--fail-on-regression"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "6 stages: 6 within noise"
    assert printed.err == ""


def test_a_slowdown_is_named_and_fails_where_asked(
    runs: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", runs[0], runs[2]]) == 0
    assert main(["compare", runs[0], runs[2], "--fail-on-regression", "--json"]) == 1
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["regressions"] == [f"{NAMES[1]}, {stage}" for stage in ("encode", "click", "end_to_end")]


def test_a_photo_of_another_size_is_no_regression(
    runs: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _, again = made_run(NAMES, 2)
    larger = made_record(NAMES[1], 9, slower=4.0, photo={"width_px": 2048, "height_px": 2048})
    write_records(tmp_path / "larger.jsonl", [first, larger, again])
    assert main(["compare", runs[0], str(tmp_path / "larger.jsonl")]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "6 stages: 1 slower, 3 within noise, 2 other photo"
    assert "note: the timed photo had 512 x 512 px in OLD and 2048 x 2048 px in NEW" in printed.err


def test_a_truncated_file_is_compared_and_named(runs: tuple[str, str, str], tmp_path: Path) -> None:
    with (tmp_path / "same.jsonl").open("a") as file:
        file.write('{"schema": "sam-')
    done = run("compare", runs[0], runs[1], cwd=tmp_path)
    assert done.returncode == 0
    assert "same.jsonl: its last line (4) is truncated" in done.stderr


def test_records_of_another_version_are_one_clear_line(runs: tuple[str, str, str], tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text('{"schema": "sam-edge/bench/99"}\n')
    assert_one_line_error(run("compare", runs[0], "other.jsonl", cwd=tmp_path), "bench/99", "other.jsonl:1")
