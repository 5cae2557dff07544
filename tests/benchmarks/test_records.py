from __future__ import annotations

import json
from pathlib import Path

import pytest

from sam_edge.benchmarks.records import SCHEMA, read_records, write_records
from sam_edge.errors import DataError

RECORD = {"schema": SCHEMA, "configuration": {"name": "a"}, "status": "measured", "machine": {}}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_records(tmp_path / "r.jsonl", [RECORD, RECORD])
    found = read_records([tmp_path / "r.jsonl", tmp_path / "r.jsonl"])
    assert (found.records, found.notes) == ([RECORD] * 4, [])


def test_a_truncated_last_line_is_ignored_and_named(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps(RECORD) + "\n" + json.dumps(RECORD)[:40])
    found = read_records([tmp_path / "r.jsonl"])
    assert found.records == [RECORD]
    (note,) = found.notes
    assert "r.jsonl" in note and "(2)" in note and "truncated" in note


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (json.dumps(RECORD | {"schema": "sam-edge/bench/99"}), ["sam-edge/bench/99", SCHEMA]),
        ('{"schema": "sam-edge/bench-overview/1"}', ["bench-overview", SCHEMA]),
        ("[1, 2]", ["None", SCHEMA]),
        (json.dumps({"schema": SCHEMA}), ["configuration, status, machine"]),
        ('{"schema": ', ["not a JSON object"]),
    ],
)
def test_a_line_that_is_no_record_of_this_schema_is_an_error_with_its_place(
    line: str, parts: list[str], tmp_path: Path
) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps(RECORD) + "\n" + line + "\n")
    with pytest.raises(DataError, match=r"r\.jsonl:2") as error:
        read_records([tmp_path / "r.jsonl"])
    assert all(part in str(error.value) for part in parts)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read"):
        read_records([tmp_path / "none.jsonl"])
