"""`python -m sam_edge.benchmarks.looks DATA...`: what further looks at an object add, by how they are averaged.

The choices behind `second_look.LookConfig` and `train.labelling.LabelConfig` were made with it, on photos held out of
the training data.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

from sam_edge.benchmarks.harness import loaded_files
from sam_edge.contract import Runtime
from sam_edge.errors import SamEdgeError
from sam_edge.evaluate.dataset import Record, open_records
from sam_edge.evaluate.metrics import mask_iou, mean_interval
from sam_edge.evaluate.protocol import PROTOCOL_VERSION
from sam_edge.evaluate.provenance import data_sha256, source_commit
from sam_edge.evaluate.simulate import first_click, tight_box
from sam_edge.predictor import SamPredictor
from sam_edge.runtimes import load
from sam_edge.second_look import LookConfig, SecondLook
from sam_edge.train.labelling import LabelConfig, Labeller

__all__ = ["SCHEMA", "measure_looks"]

SCHEMA = "sam-edge/looks/1"
WEIGHTS = (1.0, 2.0, 8.0)
THRESHOLDS = (0.0, -0.4, -0.8)
UNFILTERED = LabelConfig(min_agreement=0.0, min_box_fit=0.0, min_area_px=1)


def measure_looks(runtime: Runtime, records: list[Record]) -> dict[str, dict[str, float]]:
    """Mean IoU in percent with its interval, by variant, over every object of `records`."""
    ious: dict[str, list[float]] = {}
    photos: list[int] = []
    for number, record in enumerate(records):
        for of_object in _photo(runtime, record):
            photos.append(number)
            for variant, iou in of_object.items():
                ious.setdefault(variant, []).append(iou)
    return {variant: _summed(values, photos) for variant, values in ious.items()}


def _photo(runtime: Runtime, record: Record) -> Iterator[dict[str, float]]:
    photo = record.photo()
    predictor = SamPredictor(runtime)
    predictor.set_image(photo)
    looks = {weight: SecondLook(runtime, photo, LookConfig(weight=weight)) for weight in WEIGHTS}
    labellers = {cut: Labeller(runtime, replace(UNFILTERED, mask_threshold=cut)) for cut in THRESHOLDS}
    for found in record.objects():
        truth = found.mask()
        x, y, _ = first_click(truth)
        prompts: dict[str, dict[str, Any]] = {
            "box": {"box": tight_box(truth)},
            "click": {"point_coords": [[x, y]], "point_labels": [1]},
        }
        scores: dict[str, float] = {}
        for kind, prompt in prompts.items():
            first = predictor.predict(**prompt, multimask_output=False, return_logits=True)[0][0]
            scores[f"{kind}, one look"] = mask_iou(first > 0, truth)
            for weight, look in looks.items():
                refined = look.refine(first, **prompt)
                scores[f"{kind}, second look weighs {weight:g}"] = mask_iou(refined > 0, truth)
        for cut, labeller in labellers.items():
            labels = labeller.from_boxes(photo, [prompts["box"]["box"]])
            scores[f"box, four looks cut at {cut:g}"] = mask_iou(labels[0].mask, truth) if labels else 0.0
        yield scores


def _summed(values: list[float], photos: list[int]) -> dict[str, float]:
    low, high = mean_interval(values, photos)
    percent = {"miou_percent": float(np.mean(values)), "miou_low_percent": low, "miou_high_percent": high}
    return {name: round(100 * value, 2) for name, value in percent.items()} | {"objects": len(values)}


@click.command(epilog="Example: python -m sam_edge.benchmarks.looks held-out/ -o benchmarks/results/looks.jsonl")
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", default="nano", show_default=True)
@click.option("--runtime", default="onnx", show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("-o", "out", type=click.Path(path_type=Path), help="Append the record to this file.")
def main(data: tuple[Path, ...], model: str, runtime: str, threads: int, out: Path | None) -> None:
    """Measure one, two and four looks at every object of DATA (SA-1B's format)."""
    try:
        records = open_records(data)
        loaded = load(model, runtime, threads=threads)
        variants = measure_looks(loaded, records)
    except SamEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    record = {
        "schema": SCHEMA,
        "protocol_version": PROTOCOL_VERSION,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m sam_edge.benchmarks.looks {' '.join(path.name for path in data)} --model {model}",
        "commit": source_commit(),
        "model": {"name": model, "runtime": loaded.name, "files": loaded_files(model, loaded.name)},
        "data": {"photos": len(records), "sha256": data_sha256(list(data))},
        "variants": variants,
    }
    for variant, figures in variants.items():
        low, high = figures["miou_low_percent"], figures["miou_high_percent"]
        print(f"{variant:30} {figures['miou_percent']:5.1f} [{low:.1f}, {high:.1f}]")
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
