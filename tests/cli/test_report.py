from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from sam_edge.benchmarks.records import write_records
from sam_edge.cli import main
from tests.benchmarks.made_records import made_run
from tests.cli.command_line import assert_one_line_error, run


def test_a_report_is_two_files_and_a_truncated_line_is_named(tmp_path: Path) -> None:
    write_records(tmp_path / "r.jsonl", made_run(["nano onnx fp32"], 1))
    with (tmp_path / "r.jsonl").open("a") as file:
        file.write('{"schema"')
    done = run("report", "r.jsonl", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.md"]
    assert "r.jsonl: its last line (3) is truncated" in done.stderr
    assert "truncated" in (tmp_path / "out" / "report.html").read_text()


def test_records_of_another_version_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"schema": "sam-edge/bench/99"}\n')
    assert_one_line_error(run("report", "r.jsonl", "-o", "out", cwd=tmp_path), "bench/99", "r.jsonl:1")
    assert not (tmp_path / "out").exists()


def test_a_device_kit_is_made_and_one_without_results_says_what_to_do(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["device-kit", str(small_model), "-o", "kit.zip"]) == 0
    with zipfile.ZipFile("kit.zip") as archive:
        archive.extractall()
    assert main(["report", "kit", "-o", "out"]) == 1
    assert main(["device-kit", "nowhere", "-o", "kit2.zip"]) == 1
    assert not (tmp_path / "kit2.zip").exists()
