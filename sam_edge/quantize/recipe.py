"""A recipe: what an export does to a model's numbers, as plain data that people read, edit and use again.

    {"schema": 1, "target": "onnx", "precision": "int8", "float_units": ["image_encoder.trunk.stem"], "why": {...}}

Units are the encoder's convolutions and matrix products by their module's name in the torch model (`units` of
`export/units.py`), the same in every format. The decoder stays float: on CPUs int8 gains next to nothing there
(docs/quantization.md).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sam_edge.errors import ExportError

__all__ = ["PRECISIONS", "Recipe", "read_recipe"]

SCHEMA = 1
MAX_BYTES = 1 << 20

# Precision: (what a runtime computes in, what the file stores, in words). Which target has which: `export/targets.py`.
PRECISIONS: dict[str, tuple[str, str, str]] = {
    "fp32": ("float32", "float32", "as it was trained"),
    "fp16": ("float32", "float16", "half the bytes; Core ML also computes in float16"),
    "int8": ("int8", "int8", "weights and activations, calibrated on photos"),
    "int8-dynamic": ("int8", "int8", "activations measured while running; matrix products only"),
    "int8-weights": ("float32", "int8", "weights only: a quarter of the bytes, no faster"),
    "int4-weights": ("float32", "int4", "weights only, Core ML: 16 values a weight"),
}


@dataclass(frozen=True)
class Recipe:
    """`float_units`: units that stay float. `why`: what the search measured, unit -> figures, for people."""

    target: str
    precision: str
    float_units: tuple[str, ...] = ()
    why: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ExportError(f"precision is {self.precision!r:.60}, expected one of: {', '.join(PRECISIONS)}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for manifests and files; `from_dict` reads it."""
        return {"schema": SCHEMA, **asdict(self), "float_units": list(self.float_units)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1) + "\n"


def from_dict(data: Any, where: str) -> Recipe:
    """Raises ExportError, naming `where`, for data that are no recipe."""
    keys = {"schema", "target", "precision", "float_units", "why"}
    if not isinstance(data, dict) or set(data) - keys or {"target", "precision"} - set(data):
        raise ExportError(f"{where} is no recipe: expected an object with target, precision, float_units and why.")
    if data.get("schema") != SCHEMA:
        raise ExportError(
            f"{where} has schema {data.get('schema')!r:.20}, this version reads {SCHEMA}. Update sam-edge."
        )
    names, why = data.get("float_units", []), data.get("why", {})
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names) and isinstance(why, dict)):
        raise ExportError(f"{where}: float_units must be a list of names and why an object. Compare a written recipe.")
    if not (isinstance(data["target"], str) and isinstance(data["precision"], str)):
        raise ExportError(f"{where}: target and precision must be names. Compare a written recipe.")
    return Recipe(data["target"], data["precision"], tuple(names), why)


def read_recipe(path: str | Path) -> Recipe:
    """Raises ExportError."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ExportError(f"{path} has more than {MAX_BYTES} bytes, expected a recipe. Check the path.")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path} cannot be read as a recipe ({error}). Check the path.") from error
    return from_dict(data, str(path))
