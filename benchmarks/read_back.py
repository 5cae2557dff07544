"""A device kit with its results, as a record like those of `sam-edge bench`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sam_edge.artifact import open_artifact
from sam_edge.benchmarks.device_kit import KIT_NAME, KIT_SCHEMA
from sam_edge.benchmarks.records import MEASURED, SCHEMA, Loaded, Record
from sam_edge.benchmarks.tools import read_tool
from sam_edge.errors import DataError
from sam_edge.evaluate.metrics import mask_iou
from sam_edge.evaluate.protocol import PROTOCOL_VERSION
from sam_edge.evaluate.provenance import device_files, model_files
from sam_edge.image import resized_size
from sam_edge.masks import upscale_masks

__all__ = ["is_kit", "read_kit", "read_kits"]

STAGES = {"encoder": "encode", "decoder": "decode"}
STAGE_FIGURES = ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "min_ms", "iterations")
MASKS_FILE = "low_res_masks.bin"
KIT_FIELDS = {"model": str, "target": str, "precision": str, "image_size_px": int, "threads": int, "golden_row": int}
KIT_FIELDS |= {"expected": list}


def is_kit(path: str | Path) -> bool:
    """Whether a folder is an unpacked kit."""
    return (Path(path) / KIT_NAME).is_file()


def read_kits(directories: Iterable[str | Path]) -> Loaded:
    """The records of kits; `notes` names those of one name, of which a page shows the last. Raises DataError."""
    found = Loaded()
    where: dict[str, str | Path] = {}
    for directory in directories:
        record = read_kit(directory)
        name = record["configuration"]["name"]
        if name in where:
            found.notes.append(
                f"{where[name]} and {directory} are both {name}: only the last is shown. Write into each kit's "
                "results/device.txt what tells them apart"
            )
        where[name] = directory
        found.records.append(record)
    return found


def read_kit(directory: str | Path) -> Record:
    """The record of a kit's results. Raises DataError where there are none, or where one cannot be read."""
    directory = Path(directory)
    kit = _kit(directory)
    results = directory / "results"
    stages: dict[str, dict[str, Any]] = {}
    load_ms, first_ms, tools = 0.0, 0.0, set()
    for graph, stage in STAGES.items():
        path = next((p for p in (results / f"{graph}.json", results / f"{graph}.txt") if p.is_file()), None)
        if path is None:
            continue
        tool, figures = read_tool(path.read_text(encoding="utf-8", errors="replace"), str(path))
        stages[stage] = {name: figures[name] for name in STAGE_FIGURES if name in figures}
        load_ms += figures.get("load_ms", 0.0)
        first_ms += figures.get("first_ms", 0.0)
        tools.add(tool)
    if not stages:
        raise DataError(
            f"{results} has no encoder.json, encoder.txt, decoder.json or decoder.txt; expected what the commands of "
            "the kit's README wrote. Run them first."
        )
    device = _device(results)
    record: Record = {
        "schema": SCHEMA,
        "protocol_version": PROTOCOL_VERSION,
        "run": {"rounds_wanted": 1, "rounds_done": 1, "quick": True},
        "configuration": {
            "name": _name(kit, device),
            "model": kit["model"],
            "runtime": kit["target"],
            "precision": kit["precision"],
            "size_px": kit["image_size_px"],
            "threads": kit["threads"],
        },
        "status": MEASURED,
        "tool": ", ".join(sorted(tools)),
        "machine": {"device": device},
        "image_size_px": kit["image_size_px"],
        "stages": stages,
        "rounds": [],
    }
    files = device_files(model_files(directory / "artifact"))
    record["artifact"] = {"files": files, "bytes": sum(file["bytes"] for file in files)}
    record |= {"load_ms": [load_ms]} if load_ms else {}
    record |= {"first_ms": [first_ms]} if first_ms else {}
    if (results / MASKS_FILE).is_file():
        record["quality"] = _quality(directory, kit)
    return record


def _name(kit: dict[str, Any], device: str) -> str:
    """Like the name of a measured row, and where it was measured."""
    threads = f" {kit['threads']} threads" if kit["threads"] else ""
    return f"{kit['model']} {kit['target']} {kit['precision']} {kit['image_size_px']} px{threads} on {device}"


def _quality(directory: Path, kit: dict[str, Any]) -> dict[str, Any]:
    """The mask that the device drew, against the golden one at the photo's size."""
    artifact = open_artifact(directory / "artifact")
    golden, spec = artifact.read_golden()[0], artifact.manifest.spec
    shape = next(tensor["shape"] for tensor in kit["expected"] if tensor["name"] == "low_res_masks")
    path, count = directory / "results" / MASKS_FILE, int(np.prod(shape))
    data = path.read_bytes()[: 4 * count]
    if len(data) < 4 * count:
        raise DataError(
            f"{path} has {path.stat().st_size} bytes, expected at least {4 * count}: {shape} float32. Write the "
            "decoder's output again."
        )
    low_res = np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)
    height, width = golden.image.shape[:2]
    input_size = resized_size((height, width), spec.image_size)
    mask = upscale_masks(low_res[0, 0], spec.image_size, input_size, (height, width))
    iou = round(mask_iou(mask, golden.masks[kit["golden_row"]]), 6)
    return {
        "data": {"name": "the kit's golden photo", "photos": 1, "ground_truth": False},
        "reference": {"name": "the float32 model's golden mask"},
        "kinds": {"box": {"objects": 1, "mask_iou_mean": iou, "mask_iou_p5": iou, "mask_iou_min": iou}},
    }


def _kit(directory: Path) -> dict[str, Any]:
    try:
        kit = json.loads((directory / KIT_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{directory / KIT_NAME} cannot be read ({error}). Unpack the kit again.") from error
    if not isinstance(kit, dict) or kit.get("schema") != KIT_SCHEMA:
        raise DataError(f"{directory / KIT_NAME} is not of schema {KIT_SCHEMA!r}. Make the kit again.")
    kit = {"threads": 0} | kit  # older kits do not say how many
    for field, kind in KIT_FIELDS.items():
        if not isinstance(kit.get(field), kind):
            raise DataError(
                f"{directory / KIT_NAME} has {str(kit.get(field))[:60]!r} as {field}, expected {kind.__name__}. "
                "Unpack the kit again."
            )
    return kit


def _device(results: Path) -> str:
    path = results / "device.txt"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return " ".join(text.split())[:200] or "an unnamed device"
