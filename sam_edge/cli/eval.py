"""`sam-edge eval`: mask quality on a data set, by the evaluation protocol."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from sam_edge.cli.arguments import model_options, names, this_command
from sam_edge.cli.bars import photos_progress

if TYPE_CHECKING:
    from sam_edge.contract import Runtime
    from sam_edge.evaluate.protocol import Evaluation

EXAMPLES = """\b
Examples:
  sam-edge eval data/eval/cocoval --model nano --runtime onnx
  sam-edge eval data/eval/cocoval --kinds box,click --refine
  sam-edge eval data/eval/cocoval --limit 20 --kinds box,click --no-baselines --pictures sheets"""
KIND_NAMES = ("box", "box-jitter", "click", "click3", "mask", "noc")
DEFAULT_KINDS = KIND_NAMES[:-1]
SCHEMA = "sam-edge/eval/1"


@click.command("eval", epilog=EXAMPLES, short_help="Measure mask quality on a data set.")
@click.argument("data", nargs=-1, required=True)
@click.option(
    "--kinds",
    callback=names(KIND_NAMES),
    default=",".join(DEFAULT_KINDS),
    metavar="NAME,...",
    help=f"Prompt kinds, of {','.join(KIND_NAMES)}.  [default: all but noc, which is slow]",
)
@click.option(
    "--baselines/--no-baselines",
    default=True,
    show_default=True,
    help="The masks that cost nothing, in the same table.",
)
@click.option("--refine", is_flag=True, help="Also box and click with a second look at each object, and its gain.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N photos by name.")
@click.option("--pictures", metavar="DIR", help="Write contact sheets of the best, median and worst masks to DIR.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON record instead of the table.")
@model_options
def command(
    data: tuple[str, ...],
    kinds: tuple[str, ...],
    baselines: bool,
    refine: bool,
    limit: int | None,
    pictures: str | None,
    as_json: bool,
    model: str,
    runtime: str,
    threads: int,
) -> None:
    """Measure mask quality on DATA: folders or tars in SA-1B's format (NAME.jpg beside NAME.json).

    Every object of at least 100 px is segmented from simulated prompts; the figures are mean IoU with 95 % bootstrap
    intervals over photos. `click-oracle` looks at the answer.
    """
    from sam_edge.evaluate import report
    from sam_edge.evaluate.dataset import open_records
    from sam_edge.evaluate.pictures import PICTURE_KINDS, write_contact_sheets
    from sam_edge.evaluate.protocol import SECOND_LOOKS, evaluate
    from sam_edge.runtimes import load

    found = sorted(open_records(data), key=lambda record: record.name)
    records = found[:limit]
    if pictures is not None:
        Path(pictures).mkdir(parents=True, exist_ok=True)
    loaded = load(model, runtime, threads=threads)
    if refine:
        kinds = (*kinds, *(again for kind, again in SECOND_LOOKS.items() if kind in kinds))
    start = perf_counter()
    with photos_progress(len(records)) as on_photo:
        evaluation = evaluate(
            loaded,
            records,
            kinds=kinds,
            free_baselines=baselines,
            keep_masks=PICTURE_KINDS if pictures is not None else (),
            on_photo=on_photo,
        )
    summary = report.summarise(evaluation)
    sheets = [] if pictures is None else write_contact_sheets(evaluation, records, Path(pictures))
    for sheet in sheets:
        click.echo(f"wrote {sheet}", err=True)
    if as_json:
        record = _record(data, len(found), evaluation, loaded, model, threads, perf_counter() - start)
        click.echo(json.dumps({**record, **summary}, allow_nan=False))
    else:
        of_all = "" if len(records) == len(found) else f" (the first {len(records)} by name of {len(found)})"
        head = f"{loaded.spec.name} on {loaded.name}: {', '.join(data)}, {evaluation.photos} photos{of_all}"
        click.echo(f"{head}, {evaluation.objects} objects\n")
        click.echo(report.tables(summary))


def _record(
    data: tuple[str, ...],
    photos_in_data: int,
    evaluation: Evaluation,
    runtime: Runtime,
    model: str,
    threads: int,
    duration_s: float,
) -> dict[str, Any]:
    """What a record says beside its figures (evaluation protocol, section 4)."""
    from sam_edge.evaluate.metrics import BOOTSTRAP_SEED, RESAMPLES
    from sam_edge.evaluate.protocol import PROTOCOL_VERSION
    from sam_edge.evaluate.provenance import data_sha256, model_files, source_commit
    from sam_edge.runtimes import loaded_path

    commit = source_commit()
    return {
        "schema": SCHEMA,
        "protocol_version": PROTOCOL_VERSION,
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": this_command(),
        **({"commit": commit} if commit else {}),
        "model": {
            "name": runtime.spec.name,
            "runtime": runtime.name,
            "image_size_px": runtime.spec.image_size,
            "threads": threads,
            "files": model_files(loaded_path(model, runtime.name)),
        },
        "data": {
            "paths": list(data),
            "sha256": data_sha256([Path(path) for path in data]),
            "photos": photos_in_data,
            "photos_evaluated": evaluation.photos,
            "objects_evaluated": evaluation.objects,
        },
        "bootstrap": {"resamples": RESAMPLES, "seed": BOOTSTRAP_SEED, "unit": "photo"},
        "duration_s": round(duration_s, 3),
    }
