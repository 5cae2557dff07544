"""`sam-edge report`: benchmark records as Markdown and as one self-contained page."""

from __future__ import annotations

from pathlib import Path

import click

EXAMPLES = """\b
Examples:
  sam-edge report bench.jsonl -o report
  sam-edge report laptop.jsonl phone/kit -o report"""


@click.command("report", epilog=EXAMPLES, short_help="Make a page of benchmark records.")
@click.argument("files", nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="DIR", help="report.html and report.md go in here.")
def command(files: tuple[str, ...], output: str) -> None:
    """Make a page of FILES: records of `sam-edge bench`, or the folder of a device kit whose tools have run.

    The page is one file without scripts and without anything from elsewhere. It is drawn from the records alone.
    """
    from sam_edge.benchmarks.read_back import is_kit, read_kits
    from sam_edge.benchmarks.records import read_records
    from sam_edge.benchmarks.report import write_report

    loaded = read_records(file for file in files if not is_kit(file))
    kits = read_kits(file for file in files if is_kit(file))
    loaded.records += kits.records
    loaded.notes += kits.notes
    for note in loaded.notes:
        click.echo(f"note: {note}", err=True)
    for path in write_report(loaded.records, Path(output), loaded.notes):
        click.echo(f"wrote {path}")
