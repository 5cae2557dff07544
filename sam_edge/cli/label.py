"""`sam-edge label`: the data engine, from photos to training data."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from sam_edge.cli.arguments import model_options
from sam_edge.cli.bars import labelling_progress

EXAMPLES = """\b
Examples:
  sam-edge label photos/ -o labelled.tar
  sam-edge label photos/ --boxes detections.json -o labelled.tar --json"""


@click.command("label", epilog=EXAMPLES, short_help="Draw masks on photos, as training data.")
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="NAME.tar",
    help="Where to write: NAME-000.tar, NAME-001.tar and so on.",
)
@click.option(
    "--boxes",
    "boxes_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A COCO detection file: a mask for each of its boxes.  [default: what everything mode finds]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
@model_options
def command(
    photos: tuple[Path, ...],
    output: Path,
    boxes_file: Path | None,
    as_json: bool,
    model: str,
    runtime: str,
    threads: int,
) -> None:
    """Draw masks on PHOTOS (folders, or tars in SA-1B's format) with a model, and keep those that can be believed.

    Each object is looked at four times (whole and enlarged, each also mirrored); a mask is kept where the looks agree.
    Annotated objects are kept as they are. Killed at any moment, the same command continues.
    """
    from sam_edge.evaluate.dataset import open_records
    from sam_edge.runtimes import load
    from sam_edge.train.engine import label_photos, read_boxes
    from sam_edge.train.labelling import Labeller

    records = open_records(photos, annotated=False)
    boxes = None if boxes_file is None else read_boxes(boxes_file)
    labeller = Labeller(load(model, runtime, threads=threads))
    with labelling_progress(len(records)) as on_photo:
        counts = label_photos(labeller, records, output, boxes, on_photo)
    for line in counts.broken:
        click.echo(f"left out: {line}", err=True)
    if as_json:
        click.echo(json.dumps(asdict(counts)))
    else:
        added = f"{counts.labelled} masks added to {counts.annotated} on {counts.photos} photos"
        if counts.unusable_boxes:
            added += f", {counts.unusable_boxes} boxes left out that were empty or off their photo"
        before = f", {counts.skipped_parts} parts were there already" if counts.skipped_parts else ""
        click.echo(f"{added}{before}")
