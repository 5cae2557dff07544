"""One process's work: load a model and time every stage of a click (evaluation protocol, section 3, "Stages").

Run as a process of its own by `benchmarks/__main__.py`, so that thread pools are set before any library is imported and
the peak memory is this configuration's alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sam_edge.benchmarks.machine import memory_bytes

__all__ = ["measure_stages"]

MIN_ITERATIONS = 20
MIN_SECONDS = 0.5


def measure_stages(model: str, runtime: str, threads: int, photo_path: str, everything: bool) -> dict[str, Any]:
    """Every stage's samples in milliseconds, with memory before and after."""
    from sam_edge.everything import SamAutomaticMaskGenerator
    from sam_edge.image import preprocess, read_photo
    from sam_edge.predictor import SamPredictor
    from sam_edge.runtimes import load

    before = memory_bytes()
    start = time.perf_counter()
    engine = load(model, runtime, threads=threads)
    load_ms = 1e3 * (time.perf_counter() - start)
    data = Path(photo_path).read_bytes()
    photo = read_photo(data)
    height, width = photo.shape[:2]
    clicks = _clicks(height, width)

    predictor = SamPredictor(engine)
    start = time.perf_counter()
    predictor.set_image(photo)
    predictor.predict(clicks(0), np.array([1]), multimask_output=False)
    first_ms = 1e3 * (time.perf_counter() - start)

    parts: dict[str, list[float]] = {"decode_ms": [], "postprocess_ms": []}

    def click(i: int) -> None:
        predictor.predict(clicks(i), np.array([1]), multimask_output=False)
        parts["decode_ms"].append(predictor.timings_ms["decode"])
        parts["postprocess_ms"].append(predictor.timings_ms["postprocess"])

    def end_to_end(i: int) -> None:
        predictor.set_image(read_photo(data))
        predictor.predict(clicks(i), np.array([1]), multimask_output=False)

    tensors = [preprocess(np.roll(photo, 16 * i, axis=1), engine.spec)[0] for i in range(4)]  # inputs vary
    samples = {
        "preprocess_ms": _repeat(lambda i: preprocess(photo, engine.spec)),
        "encode_ms": _repeat(lambda i: engine.encode(tensors[i % len(tensors)])),
        "click_ms": _repeat(click),
        "end_to_end_ms": _repeat(end_to_end),
    }
    result = {
        "load_ms": load_ms,
        "first_ms": first_ms,
        "samples": samples | parts,
        "memory_before_load": before,
        "memory_after_clicks": memory_bytes(),
        "photo": {"width_px": width, "height_px": height},
    }
    if everything:
        start = time.perf_counter()
        masks = SamAutomaticMaskGenerator(
            engine,
            pred_iou_thresh=engine.spec.pred_iou_thresh,
            stability_score_thresh=engine.spec.stability_score_thresh,
            output_mode="coco_rle",
        ).generate(photo)
        result["everything_ms"] = 1e3 * (time.perf_counter() - start)
        result["everything_masks"] = len(masks)
        result["memory_after_everything"] = memory_bytes()
    return result


def _clicks(height: int, width: int) -> Callable[[int], Any]:
    rng = np.random.default_rng(0)
    points = rng.uniform([0, 0], [width - 1, height - 1], size=(64, 2))
    return lambda i: points[i % len(points)][None]


def _repeat(stage: Callable[[int], object]) -> list[float]:
    """Milliseconds of at least 20 iterations and half a second, after one that is not counted."""
    stage(0)
    samples: list[float] = []
    begin = time.perf_counter()
    while len(samples) < MIN_ITERATIONS or time.perf_counter() - begin < MIN_SECONDS:
        start = time.perf_counter()
        stage(len(samples))
        samples.append(1e3 * (time.perf_counter() - start))
    return samples


if __name__ == "__main__":
    print(json.dumps(measure_stages(**json.loads(sys.argv[1]))))
