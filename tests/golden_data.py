"""The original implementations' values (see tests/golden/README.md), read without pickle."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

GOLDEN_DIR = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN_DIR))

import inputs  # noqa: E402
import weights  # noqa: E402

__all__ = ["GOLDEN_DIR", "golden", "golden_config", "golden_meta", "golden_state", "inputs", "weights"]

SEED = 2  # of every golden file


def golden(name: str) -> dict[str, NDArray[Any]]:
    """All fields of `<name>.npz` but `meta`."""
    with np.load(GOLDEN_DIR / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files if key != "meta"}


def golden_meta(name: str) -> dict[str, Any]:
    """The JSON description inside `<name>.npz`."""
    with np.load(GOLDEN_DIR / f"{name}.npz", allow_pickle=False) as file:
        return dict(json.loads(str(file["meta"])))


def golden_config(variant: str) -> dict[str, Any]:
    """Constructor keywords of the original's parts."""
    return dict(json.loads((GOLDEN_DIR / "shapes" / f"{variant}.config.json").read_text()))


def golden_state(variant: str) -> dict[str, NDArray[Any]]:
    """The pseudo-random weights the golden values were made with."""
    shapes = weights.load_shapes(GOLDEN_DIR / "shapes" / f"{variant}.json")
    return dict(weights.state_dict(shapes, seed=SEED))
