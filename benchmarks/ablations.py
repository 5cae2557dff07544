"""`python -m sam_edge.benchmarks.ablations GROUP --data TRAIN --eval DATA -o RECORDS`: what a choice is worth.

Every variant of a group is trained from random weights by the same short schedule with the same photos and prompts,
evaluated on the same objects, exported, and timed in turn with the others. Killed at any moment, the same command
continues. The records (benchmarks/results/ablations.jsonl) make the tables of docs/ablations.md.

A short schedule says which choice learns faster, not which one ends higher: differences below the interval, and below
what another seed changes (--seed), are noise.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from sam_edge.benchmarks.ablation_table import table
from sam_edge.benchmarks.ablation_variants import GROUPS, Group
from sam_edge.benchmarks.machine import describe_machine
from sam_edge.benchmarks.timing import repeat
from sam_edge.contract import Runtime
from sam_edge.errors import SamEdgeError
from sam_edge.evaluate.dataset import Record, open_records
from sam_edge.evaluate.metrics import mean_interval
from sam_edge.evaluate.protocol import PROTOCOL_VERSION, evaluate
from sam_edge.evaluate.provenance import data_sha256, file_sha256, source_commit
from sam_edge.export.pipeline import Exporter, Request
from sam_edge.files import write_bytes_atomically
from sam_edge.image import preprocess
from sam_edge.model.registry import build_model
from sam_edge.prompts import build_prompts
from sam_edge.runtimes import load
from sam_edge.train.loop import TrainConfig, train

__all__ = ["SCHEDULE", "SCHEMA", "run_group"]

SCHEMA = "sam-edge/ablation/1"
KINDS = ("box", "click")
TIMED_SIZE_PX = 512
ROUNDS, CALLS = 5, 4  # of the timing


# How every variant is trained, but for the model, the data and what the command line says.
SCHEDULE = TrainConfig(photos_per_step=8, ema_decay=0.99, lr=8e-4, precision="bf16")


def run_group(group: Group, schedule: TrainConfig, on: Sequence[Path], out: Path) -> dict[str, Any]:
    """{"data": what was scored on, "variants": a dict of figures each}. Writes into `out`, and continues what is there.

    schedule: how each variant is trained; its model and what else the variant names are the variant's.
    """
    records = open_records(on)
    checkpoints, scores = {}, {}
    for name, variant in group.variants.items():
        folder = out / name.replace(" ", "-")
        print(f"{name}: {schedule.steps} steps", flush=True)
        config = replace(schedule, model=variant.config.to_dict(), **variant.training)
        checkpoints[name] = train(config, folder, workers=0, validate_every=1 << 30)
        scores[name] = _scores(checkpoints[name], records, folder / "scores.json")
    artifacts = {name: _exported(path) for name, path in checkpoints.items()}
    times = _times({name: load(path, threads=1) for name, path in artifacts.items()}, records[0])
    base = next(iter(group.variants))
    variants = [
        {
            "variant": name,
            "parameters": sum(p.numel() for p in build_model(variant.config).parameters()),
            "checkpoint_sha256": file_sha256(checkpoints[name]),
            **times[name],
            "encode_ratio": round(times[name]["encode_ms"] / times[base]["encode_ms"], 3),
            "kinds": {kind: _compared(scores[name], scores[base], kind) for kind in KINDS},
        }
        for name, variant in group.variants.items()
    ]
    photos = scores[base]["photo"]
    data = {"name": ", ".join(path.name for path in on), "photos": len(set(photos)), "objects": len(photos)}
    return {"data": data | {"sha256": data_sha256(list(on))}, "variants": variants}


def _scores(checkpoint: Path, records: list[Record], path: Path) -> dict[str, list[float]]:
    """IoU by prompt kind, and "photo": the photo of each; object by object. Kept in `path` beside the weights' hash."""
    sha256 = file_sha256(checkpoint)
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["checkpoint_sha256"] == sha256:
            return dict(kept["scores"])
    found = evaluate(load(checkpoint, "torch", threads=1), records, kinds=KINDS, free_baselines=False).scores
    scores: dict[str, list[float]] = {kind: [s.iou for s in found if s.kind == kind] for kind in KINDS}
    scores["photo"] = [s.photo for s in found if s.kind == KINDS[0]]
    write_bytes_atomically(path, json.dumps({"checkpoint_sha256": sha256, "scores": scores}).encode())
    return scores


def _compared(scores: dict[str, list[float]], base: dict[str, list[float]], kind: str) -> dict[str, float]:
    """Mean IoU, and the difference to the base over the same objects, with intervals by photo."""
    values, differences = np.array(scores[kind]), np.array(scores[kind]) - np.array(base[kind])
    low, high = mean_interval(values, scores["photo"])
    least, most = mean_interval(differences, scores["photo"])
    figures = {
        "miou_percent": values.mean(),
        "miou_low_percent": low,
        "miou_high_percent": high,
        "difference_points": differences.mean(),
        "difference_low_points": least,
        "difference_high_points": most,
    }
    return {name: round(100 * float(value), 2) for name, value in figures.items()}


def _exported(checkpoint: Path) -> Path:
    """The variant as an ONNX artifact of TIMED_SIZE_PX; its masks are not the question here, so it may fail."""
    out = checkpoint.parent / f"artifact-{file_sha256(checkpoint)[:12]}"
    found = sorted(out.glob("*onnx*"))
    if found:
        return found[0]
    request = Request(
        str(checkpoint), out, image_size=TIMED_SIZE_PX, allow_fail=True, measure_speed=False, threads=1, photos=1
    )
    with Exporter(request) as exporter:
        return Path(exporter.export("onnx", "fp32").path)


def _times(runtimes: dict[str, Runtime], record: Record) -> dict[str, dict[str, float]]:
    """Median milliseconds of an encode and of a click's decode of each, all of them in turn, on one thread."""
    photo = record.photo()
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in runtimes}
    for _ in range(ROUNDS):
        for name, runtime in runtimes.items():
            for stage, milliseconds in _round(runtime, photo).items():
                samples[name].setdefault(stage, []).extend(milliseconds)
    return {name: {stage: round(median(ms), 2) for stage, ms in stages.items()} for name, stages in samples.items()}


def _round(runtime: Runtime, photo: NDArray[np.uint8]) -> dict[str, list[float]]:
    image, _ = preprocess(photo, runtime.spec)
    click = {"point_coords": np.array([[[9.0, 9.0]]]), "point_labels": np.ones((1, 1))}
    prompts = build_prompts(runtime.spec, photo.shape[:2], **click)
    features = runtime.encode(image)
    return {
        "encode_ms": repeat(lambda _: runtime.encode(image), CALLS, 0.0),
        "decode_ms": repeat(lambda _: runtime.decode(features, prompts), CALLS, 0.0),
    }


@click.command(epilog="Example: python -m sam_edge.benchmarks.ablations encoders --data DATA/train --eval DATA/cocoval")
@click.argument("group", type=click.Choice(sorted(GROUPS)))
@click.option("--data", multiple=True, required=True, type=click.Path(path_type=Path), help="Photos to train on.")
@click.option("--eval", "on", multiple=True, required=True, type=click.Path(path_type=Path), help="Photos to score on.")
@click.option("--steps", default=400, show_default=True)
@click.option("--size", "image_size", default=SCHEDULE.image_size, show_default=True, help="Input side in pixels.")
@click.option("--seed", default=1, show_default=True)
@click.option("--runs", default="runs/ablations", show_default=True, type=click.Path(path_type=Path))
@click.option("-o", "out", type=click.Path(path_type=Path), help="Append the record to this file.")
def main(
    group: str,
    data: tuple[Path, ...],
    on: tuple[Path, ...],
    steps: int,
    image_size: int,
    seed: int,
    runs: Path,
    out: Path | None,
) -> None:
    """Train, evaluate, export and time every variant of GROUP."""
    schedule = replace(
        SCHEDULE,
        data=tuple(map(str, data)),
        steps=steps,
        warmup_steps=max(1, steps // 20),
        image_size=image_size,
        seed=seed,
    )
    try:
        measured = run_group(GROUPS[group], schedule, on, runs / f"{group}-{image_size}-{steps}-{seed}")
    except SamEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    named = [f"--data DATA/{path.name}" for path in data] + [f"--eval DATA/{path.name}" for path in on]
    record = {
        "schema": SCHEMA,
        "protocol_version": PROTOCOL_VERSION,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m sam_edge.benchmarks.ablations {group} {' '.join(named)} --steps {steps} "
        f"--size {image_size} --seed {seed}",
        "commit": source_commit(),
        "machine": describe_machine(),
        "group": group,
        "about": GROUPS[group].about,
        "training": {"steps": steps, "photos_per_step": schedule.photos_per_step, "image_size_px": image_size}
        | {"seed": seed, "precision": schedule.precision, "sha256": data_sha256(list(data))},
        **measured,
    }
    print(table(record))
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
