"""Records as a table for a terminal, live while a run goes on and at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sam_edge.benchmarks.records import MEASURED, Record

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["COLUMNS", "cells", "rich_table"]

COLUMNS: tuple[str, ...] = ("configuration", "rounds", "load", "encode p50", "click p50", "p90", "end to end")
COLUMNS += ("memory", "files", "IoU ref.", "mIoU box", "click")
MEBIBYTE = 2**20


def cells(record: Record) -> list[str]:
    """One row of COLUMNS; a figure that was not measured is empty."""
    run, stages = record["run"], record.get("stages", {})
    load = sorted(record.get("load_ms", ()))
    name = record["configuration"]["name"]
    return [
        name if record["status"] in (MEASURED, "not measured yet") else f"{name}: {record['status']}",
        f"{run['rounds_done']}/{run['rounds_wanted']}",
        f"{load[len(load) // 2]:.0f} ms" if load else "",
        *(
            f"{stages[stage][figure]:.1f} ms" if stage in stages else ""
            for stage, figure in (
                ("encode", "p50_ms"),
                ("click", "p50_ms"),
                ("click", "p90_ms"),
                ("end_to_end", "p50_ms"),
            )
        ),
        f"{record['memory']['peak_bytes'] / MEBIBYTE:.0f} MiB" if "memory" in record else "",
        f"{record['artifact']['bytes'] / 1e6:.1f} MB" if record.get("artifact") else "",
        *quality_cells(record),
    ]


def quality_cells(record: Record) -> list[str]:
    """The smallest mean mask IoU with the reference over the prompt kinds, and mIoU of box and click."""
    kinds: dict[str, dict[str, Any]] = record.get("quality", {}).get("kinds", {})
    ious = [kind["mask_iou_mean"] for kind in kinds.values() if "mask_iou_mean" in kind]
    truth = [kinds.get(kind, {}).get("miou_percent") for kind in ("box", "click")]
    return [f"{min(ious):.4f}" if ious else "", *("" if value is None else f"{value:.1f}" for value in truth)]


def rich_table(records: Sequence[Record], doing: str = "") -> Table:
    """`doing` stands below: what runs now, and for how long."""
    from rich.table import Table

    table = Table(caption=doing or None, caption_justify="left", box=None, pad_edge=False)
    for i, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for record in records:
        style = None if record["status"] in (MEASURED, "not measured yet") else "yellow"
        table.add_row(*cells(record), style=style)
    return table
