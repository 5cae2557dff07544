"""`sam-edge compare`: two benchmark runs, row by row."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sam_edge.benchmarks.compare import Comparison

EXAMPLES = """\b
Example:
  sam-edge compare before.jsonl after.jsonl --fail-on-regression"""
EXIT_REGRESSION = 1


@click.command("compare", epilog=EXAMPLES, short_help="Say what two benchmark runs differ in.")
@click.argument("old")
@click.argument("new")
@click.option("--fail-on-regression", is_flag=True, help="Exit 1 where something is slower, or masks are worse.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of the table.")
def command(old: str, new: str, fail_on_regression: bool, as_json: bool) -> int:
    """Say per row of OLD and NEW (files of `sam-edge bench`) what is faster, slower or within noise.

    Ratios are NEW's latency divided by OLD's, each as a multiple of the yardstick that ran beside it, with 95 %
    bootstrap intervals over rounds. What lies inside the null comparison's interval is noise.
    """
    from sam_edge.benchmarks.compare import compare
    from sam_edge.benchmarks.records import read_records

    loaded = [read_records([path]) for path in (old, new)]
    found = compare(*(part.records for part in loaded))
    for note in (*loaded[0].notes, *loaded[1].notes, *found.notes):
        click.echo(f"note: {note}", err=True)
    if as_json:
        changes = [change.to_dict() for change in found.changes]
        report = {"changes": changes, "worse_masks": found.masks, "notes": list(found.notes)}
        click.echo(json.dumps(report | {"regressions": list(found.regressions)}, allow_nan=False))
    else:
        for line in _lines(found):
            click.echo(line)
    return EXIT_REGRESSION if fail_on_regression and found.regressions else 0


def _lines(found: Comparison) -> list[str]:
    rows = [("configuration", "stage", "old", "new", "ratio", "95 % interval", "noise", "verdict")]
    rows += [
        (
            change.row,
            change.stage,
            f"{change.old_ms:.2f} ms",
            f"{change.new_ms:.2f} ms",
            f"{change.ratio:.3f}",
            f"{change.low:.3f} to {change.high:.3f}",
            f"{change.noise_low:.3f} to {change.noise_high:.3f}",
            change.verdict,
        )
        for change in found.changes
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"masks of {row} are worse: {why}" for row, why in found.masks.items()]
    counts = {verdict: sum(change.verdict == verdict for change in found.changes) for verdict in VERDICTS}
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return [*lines, f"{len(found.changes)} stages: {summary or 'none in common'}"]


VERDICTS = ("faster", "slower", "within noise", "too few rounds", "other photo")
