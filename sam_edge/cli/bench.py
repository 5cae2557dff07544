"""`sam-edge bench`: latency, memory and masks of a matrix of configurations, on this machine."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam_edge.cli.arguments import Several, this_command

if TYPE_CHECKING:
    from sam_edge.benchmarks.harness import Harness, Job
    from sam_edge.benchmarks.records import Record

EXAMPLES = """\b
Examples:
  sam-edge bench --model nano --runtime onnx torch --budget 5m -o nano.jsonl
  sam-edge bench --model nano --artifacts out --runtime onnx openvino tflite --precision fp32 int8 --threads 1 2
  sam-edge bench --model student.safetensors --reference sam_vit_h_4b8939.pth --data labelled -o student.jsonl"""
SCENARIO_NAMES = ("single", "multi", "everything", "sustained")
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
BYTES = {"": 1, "M": 2**20, "G": 2**30}


def _duration(_: click.Context, __: click.Parameter, text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text)
    if match is None:
        raise click.BadParameter(f"got {text!r}, expected a time such as 90s, 10m or 1h.")
    return float(match[1]) * SECONDS[match[2]]


def _memory(_: click.Context, __: click.Parameter, text: str) -> int:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([MG]?)", text)
    if match is None:
        raise click.BadParameter(f"got {text!r}, expected a size such as 900M or 4G; 0 for none.")
    return int(float(match[1]) * BYTES[match[2]])


@click.command("bench", epilog=EXAMPLES, short_help="Measure latency, memory and masks here.")
@click.option(
    "--model",
    "models",
    cls=Several,
    default=["nano"],
    metavar="NAME|PATH...",
    help="Names, checkpoints and artifact folders.",
)
@click.option(
    "--runtime",
    "runtimes",
    cls=Several,
    default=["auto"],
    metavar="NAME...",
    help="auto onnx openvino tflite coreml torch.",
)
@click.option(
    "--precision", "precisions", cls=Several, metavar="NAME...", help="fp32 fp16 int8 ...  [default: all there are]"
)
@click.option("--size", "sizes", cls=Several, type=int, metavar="PX...", help="Input sides.  [default: all there are]")
@click.option("--threads", "threads", cls=Several, type=int, default=[2], metavar="N...", help="CPU threads; 0: any.")
@click.option(
    "--artifacts", multiple=True, metavar="DIR", help="Where `sam-edge export -o DIR` wrote what --precision chooses."
)
@click.option(
    "--reference", default="", metavar="NAME|PATH", help="Judge of the masks.  [default: same model, float32]"
)
@click.option("--data", multiple=True, metavar="DIR", help="Photos for the masks, with or without ground truth.")
@click.option("--photos", default=0, metavar="N", help="Use N photos of --data, drawn evenly.  [default: all]")
@click.option("--photo", metavar="FILE", help="The photo that is timed.  [default: a bundled one, 512 x 512 px]")
@click.option(
    "--scenario",
    "scenarios",
    cls=Several,
    default=SCENARIO_NAMES[:3],
    metavar="NAME...",
    help="single multi everything sustained.  [default: the first three]",
)
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1), help="Fewer are labelled quick.")
@click.option("--sustained", default="60s", show_default=True, callback=_duration, metavar="TIME", help="Its duration.")
@click.option("--profile", is_flag=True, help="Also time by operator, from the runtime's own profiler.")
@click.option("--budget", default="0", callback=_duration, metavar="TIME", help="Start no round past it: 90s, 10m.")
@click.option(
    "--time-limit", default="10m", show_default=True, callback=_duration, metavar="TIME", help="Of one process."
)
@click.option("--memory-limit", default="0", callback=_memory, metavar="SIZE", help="Of one process: 900M, 4G.")
@click.option("--no-null", is_flag=True, help="Leave out the null comparison; `compare` then knows no noise.")
@click.option("--no-pictures", is_flag=True, help="Keep no pictures of the worst masks in the records.")
@click.option("-o", "--output", default="bench.jsonl", show_default=True, metavar="FILE", help="The records.")
@click.option("--restart", is_flag=True, help="Measure everything again, and forget what FILE holds.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as a JSON list instead of the table.")
def command(
    models: Sequence[str],
    runtimes: Sequence[str],
    precisions: Sequence[str],
    sizes: Sequence[int],
    threads: Sequence[int],
    artifacts: tuple[str, ...],
    output: str,
    restart: bool,
    as_json: bool,
    time_limit: float,
    memory_limit: int,
    budget: float,
    reference: str,
    **options: Any,
) -> int:
    """Measure every configuration in a process of its own, in rounds of reversed order, by the protocol.

    Latency, memory and masks stand in the same record. Ended at any moment, the same command goes on where it was.
    """
    from sam_edge.benchmarks.harness import Harness, Plan, journal_path
    from sam_edge.benchmarks.matrix import expand
    from sam_edge.benchmarks.process import Limits
    from sam_edge.benchmarks.records import MEASURED, write_records
    from sam_edge.benchmarks.summary import Summary

    rows = expand(models, runtimes, precisions, sizes, threads, [Path(folder) for folder in artifacts])
    plan = Plan(
        configurations=tuple(rows),
        settings=_settings(options),
        reference=reference,
        command=this_command(),
        limits=Limits(time_limit, memory_limit),
        budget_seconds=budget,
    )
    out = Path(output)
    _check_output(out, restart)
    if restart:
        journal_path(out).unlink(missing_ok=True)
    harness = Harness(plan, out)
    summary = Summary(plan, harness.journal)

    def write() -> None:
        write_records(out, summary.records())

    harness.on_round = write
    with _live(harness, summary):
        try:
            harness.run()
        finally:
            write()
    records = summary.records()
    if as_json:
        import json

        click.echo(json.dumps(records, allow_nan=False))
    else:
        _print(records)
    click.echo(f"wrote {out}; see it with: sam-edge report {out} -o report", err=True)
    return 0 if any(record["status"] == MEASURED for record in records) else 1


def _settings(options: dict[str, Any]) -> Any:
    from sam_edge.benchmarks.harness import Settings

    unknown = [name for name in options["scenarios"] if name not in SCENARIO_NAMES]
    if unknown:
        raise click.UsageError(f"--scenario got {', '.join(unknown)}, expected some of: {', '.join(SCENARIO_NAMES)}.")
    defaults = Settings()
    data = tuple(str(Path(path)) for path in options["data"]) or defaults.data
    _check_inputs(data, options["photo"])
    return Settings(
        rounds=options["rounds"],
        scenarios=tuple(options["scenarios"]),
        sustained_seconds=options["sustained"],
        profile=options["profile"],
        photo=options["photo"] or defaults.photo,
        data=data,
        photos=options["photos"],
        null=not options["no_null"],
        pictures=not options["no_pictures"],
    )


def _check_inputs(data: Sequence[str], photo: str | None) -> None:
    """What every process would stumble over is said once, before the first. Raises DataError, ImageError."""
    from sam_edge.errors import DataError
    from sam_edge.image import read_photo

    for path in data:
        if not Path(path).exists():
            raise DataError(f"{path} does not exist, expected a folder of photos, or a set in SA-1B's format.")
    if photo is not None:
        read_photo(photo)


def _check_output(out: Path, restart: bool) -> None:
    """A file that this run did not write is not replaced. Raises OutputError."""
    from sam_edge.benchmarks.harness import journal_path
    from sam_edge.errors import OutputError

    if out.exists() and not journal_path(out).exists() and not restart:
        raise OutputError(
            f"{out} is there without {journal_path(out).name}, so it cannot be continued and is not replaced. "
            "Give another name with -o, or --restart."
        )
    if not out.absolute().parent.is_dir():
        raise OutputError(f"{out} cannot be written: its folder does not exist. Create it first.")


@contextmanager
def _live(harness: Harness, summary: Any) -> Iterator[None]:
    """A table that grows on a terminal; elsewhere a line a process."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:

        def on_done(job: Job, entry: dict[str, Any]) -> None:
            said = "" if entry["status"] == "measured" else f": {entry['status']}, {entry['reason']}"
            where = f"round {job.round + 1}, " if job.task in ("single", "multi", "everything") else ""
            click.echo(f"{where}{job.task} {job.row} {entry['seconds']:.1f} s{said}", err=True)

        harness.on_done = on_done
        yield
        return

    from rich.live import Live

    from sam_edge.benchmarks.table import rich_table

    with Live(rich_table(summary.records()), console=console, auto_refresh=False) as live:

        def on_start(job: Job) -> None:
            live.update(rich_table(summary.records(), f"now: {job.task} of {job.row or 'the machine'}"), refresh=True)

        harness.on_start = on_start
        yield
        live.update("")


def _print(records: Sequence[Record]) -> None:
    from rich.console import Console

    from sam_edge.benchmarks.table import rich_table

    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(rich_table(records))
    for record in records:
        if "reason" in record:
            click.echo(f"{record['configuration']['name']}: {record['status']}: {record['reason']}")
        reference = record.get("quality", {}).get("reference", {})
        if "reason" in reference:
            click.echo(f"{record['configuration']['name']}: no reference: {reference['reason']}")
