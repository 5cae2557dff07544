"""The table of docs/kernels.md and README: one row a shape, filled from the newest run of a results file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sam_edge.benchmarks.kernels_cases import PLAIN, all_cases
from sam_edge.files import atomic_file

__all__ = ["render", "write_table"]

MISSING = "not measured yet"
START, END = "<!-- table of kernels: start -->", "<!-- table of kernels: end -->"
COLUMNS = ("op", "shape", "batch", "kernel ms", "best baseline ms", "times faster", "of matrix rate", "of bandwidth",
           "of plain attention's speed", "memory of SDPA's")  # fmt: skip
Row = tuple[str, str, int]


def write_table(page: Path, records: Iterable[dict[str, Any]]) -> None:
    """Put the table between the page's two marks; the page changes only when it is complete."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(START)
    with atomic_file(page) as file:
        file.write(f"{before}{START}\n{render(records)}\n{END}{rest.split(END)[1]}".encode())


def render(records: Iterable[dict[str, Any]]) -> str:
    """Markdown from the records of the newest run; what was not measured says so in its cell."""
    records = list(records)
    newest = max((record["run"] for record in records), default=None)
    records = [record for record in records if record["run"] == newest]
    gpu = f"{records[0]['gpu']}, {records[0]['dtype'].removeprefix('torch.')}, {newest}" if records else MISSING
    lines = [f"Measured on: {gpu}.", "", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    rows = [(case.op, case.shape, case.batch) for case in all_cases()]
    lines += [f"| {' | '.join(_cells(row, records))} |" for row in rows]
    return "\n".join(lines)


def _cells(row: Row, records: list[dict[str, Any]]) -> list[str]:
    found = {record["variant"]: record for record in records if _is_of(row, record) and "p50_ms" in record}
    ours = {name: record for name, record in found.items() if name.startswith("triton")}
    others = {name: record for name, record in found.items() if name not in ours and name != PLAIN}
    kernel = min(ours.values(), key=_time, default=None)
    best = min(others, key=lambda name: _time(others[name]), default=None)
    sdpa = found.get("sdpa with bias", found.get("sdpa"))
    plain = found.get(PLAIN)
    return [
        row[0],
        row[1],
        str(row[2]),
        f"{_time(kernel):.3f}" if kernel else _why_not(row, records),
        f"{_time(others[best]):.3f} ({best})" if best else MISSING,
        f"{_time(others[best]) / _time(kernel):.2f}" if kernel and best else MISSING,
        _percent(kernel, "share_of_matrix_rate"),
        _percent(kernel, "share_of_copy_bandwidth"),
        f"{_time(plain) / _time(kernel):.0%}" if kernel and plain else (MISSING if _has_plain(row) else ""),
        f"{kernel['peak_bytes'] / sdpa['peak_bytes']:.0%}" if kernel and sdpa and sdpa["peak_bytes"] else MISSING,
    ]


def _is_of(row: Row, record: dict[str, Any]) -> bool:
    return (record["op"], record.get("shape"), record.get("batch")) == row


def _why_not(row: Row, records: list[dict[str, Any]]) -> str:
    """What a run that came to the kernel says in place of its time."""
    said = [record["skipped"] for record in records if _is_of(row, record) and record["variant"] == "triton"]
    return said[0].replace("|", "/") if said else MISSING


def _has_plain(row: Row) -> bool:
    return row[0] == "global attention"


def _percent(record: dict[str, Any] | None, name: str) -> str:
    return f"{record[name]:.0%}" if record and name in record else MISSING


def _time(record: dict[str, Any]) -> float:
    return float(record["p50_ms"])
