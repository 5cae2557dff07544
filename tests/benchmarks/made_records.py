"""Records as a run would write them, from drawn samples: a known truth for what reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from sam_edge.benchmarks.records import SCHEMA
from sam_edge.benchmarks.timing import summarise

__all__ = ["made_record", "made_run"]

STAGES = {"preprocess": 3.0, "encode": 30.0, "decode": 8.0, "postprocess": 0.3, "click": 9.0, "end_to_end": 45.0}
MACHINE = {"cpu": "made", "cores_visible": 2, "system": "Linux x86_64", "libraries": {"onnxruntime": "1.0"}}


def made_record(
    name: str,
    seed: int,
    slower: float = 1.0,
    machine: float = 1.0,
    rounds: int = 10,
    noise: float = 0.03,
    scale: float = 1.0,
    **fields: Any,
) -> dict[str, Any]:
    """`slower`: the code's factor, `machine`: the machine's, which also moves the yardstick; noise is lognormal,
    half of it common to a round."""
    rng = np.random.default_rng(seed)
    of_round = machine * np.exp(rng.normal(0, noise, rounds))

    def samples(milliseconds: float) -> list[list[float]]:
        return [list(milliseconds * factor * np.exp(rng.normal(0, noise, 20))) for factor in of_round]

    model, runtime, precision, size = [*name.split(), "512"][:4]
    configuration = {"name": name, "model": model, "runtime": runtime, "precision": precision}
    record = {
        "schema": SCHEMA,
        "protocol_version": 1,
        "command": "sam-edge bench",
        "time_utc": "2026-01-01T00:00:00+00:00",
        "run": {"rounds_wanted": rounds, "rounds_done": rounds, "quick": rounds < 10},
        "configuration": configuration | {"size_px": int(size), "threads": 2},
        "status": "measured",
        "machine": MACHINE,
        "artifact": {"files": [], "bytes": int(14e6 * scale)},
        "photo": {"width_px": 512, "height_px": 512},
        "image_size_px": int(size),
        "load_ms": [300.0] * rounds,
        "first_ms": [60.0] * rounds,
        "stages": {
            stage: summarise(samples(ms * slower * scale))
            | {"round_yardstick_ms": [float(np.median(part)) for part in samples(12.0)]}
            for stage, ms in STAGES.items()
        },
        "memory": {"before_load_bytes": 50 << 20, "peak_bytes": 240 << 20},
        "rounds": [],
    }
    return record | fields


def made_run(names: list[str], seed: int, **fields: Any) -> list[dict[str, Any]]:
    """One record a name, and the null comparison of the first."""
    records = [made_record(name, 1000 * seed + i, **fields) for i, name in enumerate(names)]
    again = made_record(names[0], 1000 * seed + len(names), **fields)
    again["configuration"] |= {"name": f"{names[0]} (again)"}
    return [*records, again | {"null_of": names[0]}]
