from __future__ import annotations

import json
from pathlib import Path

import pytest

from sam_edge.cli import main
from tests.cli.command_line import assert_one_line_error, run


def test_a_small_run_prints_a_table_writes_records_and_keeps_standard_output_clean(
    small_model: Path, tmp_path: Path
) -> None:
    arguments = ["bench", "--model", small_model, "abacus", "--threads", "1", "--rounds", "1", "--scenario", "single"]
    arguments += ["--photos", "1", "--no-null", "--reference", small_model]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "small onnx fp32 64 px 1 threads" in done.stdout
    assert "not available" in done.stdout and "'abacus'" in done.stdout
    (measured, missing) = [json.loads(line) for line in (tmp_path / "bench.jsonl").read_text().splitlines()]
    assert measured["command"].startswith("sam-edge bench --model small abacus")
    assert (measured["status"], missing["status"]) == ("measured", "not available")
    assert measured["stages"]["encode"]["iterations"] >= 20
    again = run(*arguments, "--json", cwd=tmp_path)  # nothing is left to measure
    assert again.returncode == 0, again.stderr
    assert [record["status"] for record in json.loads(again.stdout)] == ["measured", "not available"]
    assert "single" not in again.stderr


def test_records_of_something_else_are_not_replaced(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "bench.jsonl").write_text("{}")
    done = run("bench", "--model", small_model, cwd=tmp_path)
    assert_one_line_error(done, "bench.jsonl", "not replaced", "--restart")
    assert (tmp_path / "bench.jsonl").read_text() == "{}"


def test_data_that_does_not_exist_is_one_clear_line(small_model: Path, tmp_path: Path) -> None:
    assert_one_line_error(run("bench", "--model", small_model, "--data", "no", cwd=tmp_path), "no does not exist")


@pytest.mark.parametrize(
    "option",
    [("--budget", "soon"), ("--memory-limit", "much"), ("--rounds", "0"), ("--scenario", "offline"), ("--size", "x")],
)
def test_a_value_that_cannot_be_read_is_wrong_usage(
    option: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *option]) == 2
    assert not list(tmp_path.iterdir())
