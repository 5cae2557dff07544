from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from sam_edge.benchmarks.looks import SCHEMA, main
from tests.sa1b import OUTLINES, write_set


def test_one_two_and_four_looks_stand_in_one_record(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    out = tmp_path / "looks.jsonl"
    done = CliRunner().invoke(main, [str(tmp_path / "set"), "-o", str(out)])
    assert done.exit_code == 0, done.output
    record = json.loads(out.read_text())
    assert record["schema"] == SCHEMA and record["command"] == "python -m sam_edge.benchmarks.looks set --model nano"
    variants = record["variants"]
    assert {"box, one look", "click, second look weighs 2", "box, four looks cut at -0.4"} <= variants.keys()
    assert {figures["objects"] for figures in variants.values()} == {sum(map(len, OUTLINES.values()))}
    assert all(f["miou_low_percent"] <= f["miou_percent"] <= f["miou_high_percent"] for f in variants.values())


def test_data_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(tmp_path / "none")])
    assert done.exit_code == 1 and "does not exist" in done.output and "Traceback" not in done.output
