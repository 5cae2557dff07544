"""Benchmark records: one JSON object a line, `schema` first. What each field means is in docs/benchmarks.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from sam_edge.errors import DataError
from sam_edge.files import write_bytes_atomically

__all__ = ["MEASURED", "SCHEMA", "Loaded", "Record", "parse_records", "read_records", "to_lines", "write_records"]

SCHEMA = "sam-edge/bench/1"
MEASURED = "measured"  # the status of a row that has figures; any other says why it has none
REQUIRED = ("configuration", "status", "machine")

Record: TypeAlias = dict[str, Any]


@dataclass
class Loaded:
    """Records in the order of the files; `notes` names what was left out, a line each."""

    records: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_records(paths: Iterable[str | Path]) -> Loaded:
    """Every record of the files. A truncated last line, as a killed process leaves it, is ignored and named.

    Raises DataError for a file that cannot be read, holds another schema version, or is damaged elsewhere.
    """
    found = Loaded()
    for path in map(Path, paths):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error.strerror}), expected a file of `sam-edge bench`. Check the path."
            ) from error
        part = parse_records(text, str(path))
        found.records += part.records
        found.notes += part.notes
    return found


def parse_records(text: str, where: str) -> Loaded:
    """The records of a file's text; `where` stands in messages. Raises DataError."""
    found = Loaded()
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines) and not text.endswith("\n"):
                found.notes.append(f"{where}: its last line ({number}) is truncated and was ignored")
                continue
            raise DataError(
                f"{where}:{number} is not a JSON object, expected one record a line. Remove the line, or measure again."
            ) from None
        found.records.append(_checked(record, f"{where}:{number}"))
    return found


def _checked(record: Any, where: str) -> Record:
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA:
        raise DataError(
            f"{where} has schema {str(schema)[:60]!r}, expected {SCHEMA!r}. Read it with the version of sam-edge that "
            "wrote it, or measure again."
        )
    missing = [name for name in REQUIRED if name not in record]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}, which every record has. Measure again.")
    return dict(record)


def to_lines(records: Sequence[Record]) -> str:
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)


def write_records(path: str | Path, records: Sequence[Record]) -> None:
    """Replace the file; whoever reads it sees the old records or the new ones. Raises OutputError."""
    write_bytes_atomically(path, to_lines(records).encode())
