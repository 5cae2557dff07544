"""Is this folder still the model it says it is? Checked from its manifest and golden photos alone, without torch.

Hashes and structure first, then through the runtime: the canary's embeddings and the golden masks. Bounds are those
that the certificate recorded when the artifact was made, with room for another machine's order of sums.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam_edge.artifact import CERTIFICATE_NAME, open_artifact
from sam_edge.contract import Runtime
from sam_edge.errors import ArtifactError
from sam_edge.golden_vectors import GoldenDifference, check_embeddings, compare, nan_as_null
from sam_edge.runtimes import load_to_verify

__all__ = ["Verification", "verify"]

MASK_IOU_ROOM = 0.03  # other CPUs saturate and sum differently, and golden masks are few
IOU_PREDICTION_ROOM = 0.05


@dataclass(frozen=True)
class Verification:
    """`checks`: what was checked -> None, or why it failed. `figures` as measured here."""

    directory: str
    target: str
    precision: str
    runtime: str
    checks: dict[str, str | None]
    figures: dict[str, float]

    @property
    def passed(self) -> bool:
        return not any(self.checks.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: a figure that is no number is None."""
        return {**vars(self), "figures": nan_as_null(self.figures), "passed": self.passed}


def verify(directory: str | Path, threads: int = 0) -> Verification:
    """Check one artifact's folder. Raises ArtifactError where it cannot even be opened, RuntimeUnavailable where
    nothing here can compute its files."""
    artifact = open_artifact(directory)
    manifest = artifact.manifest
    artifact.read_graphs()
    if CERTIFICATE_NAME not in manifest.files:
        raise ArtifactError(f"{directory} has no {CERTIFICATE_NAME}: it was never certified. Export the model again.")
    certified = _certificate(artifact.read_file(CERTIFICATE_NAME), directory)
    golden = artifact.read_golden()
    runtime = load_to_verify(artifact, threads)
    found = compare(runtime, golden)
    checks = {
        "certificate": None if certified["passed"] else f"it did not pass: {'; '.join(certified['missed'])}",
        "embeddings": _canary(runtime, golden, manifest.embedding_tolerance),
        "masks": _masks(found, certified["golden"]),
    }
    figures = {
        "golden_mask_iou_min": found.mask_iou,
        "golden_logits_max_abs_error": found.logits,
        "golden_iou_predictions_max_abs_error": found.iou_predictions,
    }
    return Verification(
        str(directory), manifest.target, str(manifest.recipe.get("precision", "")), runtime.name, checks, figures
    )


def _certificate(data: bytes, directory: str | Path) -> dict[str, Any]:
    try:
        found = json.loads(data)
        certified = {"passed": bool(found["passed"]), "missed": [str(line) for line in found["missed"]]}
        golden = {name: _figure(found["golden"][name]) for name in ("mask_iou_min", "iou_predictions_max_abs_error")}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ArtifactError(
            f"{Path(directory) / CERTIFICATE_NAME} is no certificate ({error!r:.200}). Export again."
        ) from error
    return {**certified, "golden": golden}


def _figure(recorded: Any) -> float:
    return math.nan if recorded is None else float(recorded)  # null: the export measured no number


def _canary(runtime: Runtime, golden: Any, tolerance: float) -> str | None:
    try:
        check_embeddings(runtime, golden, tolerance)
    except ArtifactError as error:
        return str(error)
    return None


def _masks(found: GoldenDifference, recorded: dict[str, float]) -> str | None:
    """NaN on either side fails."""
    least = recorded["mask_iou_min"] - MASK_IOU_ROOM
    if not found.mask_iou >= least:
        return f"a golden mask has IoU {found.mask_iou:.4f} with the stored one, expected at least {least:.4f}"
    most = recorded["iou_predictions_max_abs_error"] + IOU_PREDICTION_ROOM
    if not found.iou_predictions <= most:
        return (
            f"a predicted IoU differs by {found.iou_predictions:.4f} from the stored one, expected at most {most:.4f}"
        )
    return None
