"""The certificate of an artifact: what was measured of its masks, against which bounds, and whether it passed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sam_edge.evaluate.parity import KindParity, OutputError
from sam_edge.evaluate.protocol import PROTOCOL_VERSION
from sam_edge.golden_vectors import GoldenDifference, nan_as_null

__all__ = ["BOUNDS", "Bounds", "Speed", "certificate", "failures"]

SCHEMA = 1


@dataclass(frozen=True)
class Bounds:
    """What must hold in every prompt kind (evaluation protocol, section 2); None where nothing is asked."""

    mask_iou_mean: float | None = None
    mask_iou_p5: float | None = None
    retention: float | None = None


_INT = Bounds(retention=0.99)
BOUNDS = {
    "fp32": Bounds(mask_iou_mean=0.995, mask_iou_p5=0.98),
    "fp16": Bounds(mask_iou_mean=0.99, retention=0.995),
    "int8": _INT,
    "int8-dynamic": _INT,
    "int8-weights": _INT,
    "int4-weights": _INT,
}
MADE_FOR_SPEED = ("int8", "int8-dynamic")
# With fewer objects (the bundled photos have nine) retention is missed only where its whole interval lies below the
# bound: one click that int8 tips to the other of two objects moves the mean of nine by more than the bound allows.
ENOUGH_OBJECTS = 100


@dataclass(frozen=True)
class Speed:
    """Medians on the machine of the export; `ratio` is the same target's fp32 encode time over this one's."""

    threads: int
    encode_ms: float
    decode_ms: float
    fp32_encode_ms: float
    ratio: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "threads": self.threads,
            "encode_ms": round(self.encode_ms, 3),
            "decode_ms": round(self.decode_ms, 3),
            "fp32_encode_ms": round(self.fp32_encode_ms, 3),
            "encode_speedup": round(self.ratio, 3),
        }


def failures(precision: str, kinds: Mapping[str, KindParity], speed: Speed | None = None) -> list[str]:
    """One line for each bound that is missed, with figures; none when the artifact passes."""
    bounds, missed = BOUNDS[precision], []
    for kind, parity in kinds.items():
        for name in ("mask_iou_mean", "mask_iou_p5", "retention"):
            bound, got = getattr(bounds, name), getattr(parity, name)
            if name == "retention" and parity.prompts < ENOUGH_OBJECTS and parity.retention_high is not None:
                got = parity.retention_high
            if bound is not None and not got >= bound:  # NaN misses
                missed.append(f"{kind}: {name} is {got:.4f}, expected at least {bound}")
    if speed is not None and precision in MADE_FOR_SPEED and not speed.ratio > 1:
        missed.append(f"encode takes {1 / speed.ratio:.2f} times as long as in fp32, expected less than 1")
    return missed


def certificate(
    *,
    precision: str,
    kinds: Mapping[str, KindParity],
    outputs: Mapping[str, OutputError],
    speed: Speed | None,
    data: Mapping[str, Any],
    reference: Mapping[str, Any],
    runtime: str,
    golden: GoldenDifference,
) -> dict[str, Any]:
    """Plain data for certificate.json and for `sam-edge export --json`; a figure that is no number is None."""
    missed = failures(precision, kinds, speed)
    bounds = BOUNDS[precision]
    found = {
        "schema": SCHEMA,
        "protocol_version": PROTOCOL_VERSION,
        "passed": not missed,
        "missed": missed,
        "precision": precision,
        "bounds": {name: value for name, value in vars(bounds).items() if value is not None},
        "data": dict(data),
        "reference": dict(reference),
        "runtime": runtime,
        "kinds": {kind: parity.to_dict() for kind, parity in kinds.items()},
        "outputs": {
            name: {"max_abs_error": float(f"{error.max_abs:.4g}"), "relative_error": float(f"{error.relative:.4g}")}
            for name, error in outputs.items()
        },
        "golden": {
            "mask_iou_min": round(golden.mask_iou, 6),
            "logits_max_abs_error": float(f"{golden.logits:.4g}"),
            "iou_predictions_max_abs_error": float(f"{golden.iou_predictions:.4g}"),
        },
        **({"speed": speed.to_dict()} if speed else {}),
    }
    return dict(nan_as_null(found))


def to_bytes(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()
