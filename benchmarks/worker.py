"""One measured process: load one configuration, do one task, write one JSON file (evaluation protocol, section 3).

Started by `process.py` as `python -m sam_edge.benchmarks.worker JOB.json`, so that thread pools are set before a
library is imported, and the peak memory is this configuration's alone.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_edge.benchmarks.machine import memory_bytes
from sam_edge.benchmarks.timing import repeat, repeat_beside
from sam_edge.benchmarks.yardstick import Yardstick
from sam_edge.contract import Runtime
from sam_edge.errors import CheckpointError, SamEdgeError, require

__all__ = ["EXIT_REFUSED", "TASKS", "main"]

EXIT_REFUSED = 3  # what was asked cannot be done here; the file has the reason
NUM_INPUTS = 4  # photos that differ, so that no iteration repeats the one before
SHIFT_PX = 16
JPEG_QUALITY = 90
WINDOW_S = 10.0  # of the sustained scenario

Photo = NDArray[np.uint8]


def load_engine(job: dict[str, Any]) -> Runtime:
    """The job's runtime; a checkpoint is built for the job's size. Raises SamEdgeError."""
    if job["runtime"] == "torch" and job["size_px"]:
        model = require("sam_edge.model.checkpoints", extra="torch").load_model(job["path"], image_size=job["size_px"])
        runtime: Runtime = require("sam_edge.runtimes.with_torch", extra="torch").TorchRuntime(model, job["threads"])
        return runtime
    from sam_edge.runtimes import load

    return load(job["path"], job["runtime"], threads=job["threads"])


class Inputs:
    """The photo, shifted a little for each iteration: its bytes, its pixels, and clicks that move."""

    def __init__(self, path: str) -> None:
        from sam_edge.image import read_photo

        photo = read_photo(path)
        self.photos: list[Photo] = [np.roll(photo, SHIFT_PX * i, axis=1) for i in range(NUM_INPUTS)]
        self.files = [_jpeg(shifted) for shifted in self.photos]
        self.height, self.width = photo.shape[:2]
        self._points = np.random.default_rng(0).uniform([0, 0], [self.width - 1, self.height - 1], size=(64, 2))

    def photo(self, i: int) -> Photo:
        return self.photos[i % NUM_INPUTS]

    def file(self, i: int) -> bytes:
        return self.files[i % NUM_INPUTS]

    def click(self, i: int) -> NDArray[np.float64]:
        """(1, 2) px."""
        point: NDArray[np.float64] = self._points[i % len(self._points)][None]
        return point

    def clicks(self, count: int, i: int) -> NDArray[np.float64]:
        """(count, 1, 2) px."""
        points: NDArray[np.float64] = np.roll(self._points, i, axis=0)[:count, None]
        return points


def single(job: dict[str, Any]) -> dict[str, Any]:
    """Single stream: every stage of a click at a time, and memory after it."""
    from sam_edge.image import preprocess, read_photo
    from sam_edge.predictor import SamPredictor

    inputs, yardstick = Inputs(job["photo"]), Yardstick()
    before = memory_bytes()
    start = perf_counter()
    engine = load_engine(job)
    load_ms = 1e3 * (perf_counter() - start)

    predictor = SamPredictor(engine)
    start = perf_counter()
    predictor.set_image(inputs.photo(0))
    predictor.predict(inputs.click(0), np.array([1]), multimask_output=False)
    first_ms = 1e3 * (perf_counter() - start)
    parts: dict[str, list[float]] = {"decode": [], "postprocess": []}

    def click(i: int) -> None:
        predictor.predict(inputs.click(i), np.array([1]), multimask_output=False)
        if i == 0:  # a warm-up
            return
        for stage, samples in parts.items():
            samples.append(predictor.timings_ms[stage])

    def end_to_end(i: int) -> None:
        predictor.set_image(read_photo(inputs.file(i)))
        predictor.predict(inputs.click(i), np.array([1]), multimask_output=False)

    tensors = [preprocess(photo, engine.spec)[0] for photo in inputs.photos]
    stages: dict[str, Callable[[int], object]] = {
        "preprocess": lambda i: preprocess(inputs.photo(i), engine.spec),
        "encode": lambda i: engine.encode(tensors[i % NUM_INPUTS]),
        "click": click,
        "end_to_end": end_to_end,
    }
    timed = {
        name: repeat_beside(stage, yardstick, job["min_iterations"], job["min_seconds"])
        for name, stage in stages.items()
    }
    memory = memory_bytes()
    beside = {name: float(np.median(marks)) for name, (_, marks) in timed.items()}
    return {
        "load_ms": load_ms,
        "first_ms": first_ms,
        "samples_ms": {name: samples for name, (samples, _) in timed.items()} | parts,
        "yardstick_ms": beside | dict.fromkeys(parts, beside["click"]),
        "memory_before_load": before,
        "memory_after": memory,
        "photo": {"width_px": inputs.width, "height_px": inputs.height},
        "image_size_px": engine.spec.image_size,
        "photo_input": engine.spec.photo_input,
    }


def multi(job: dict[str, Any]) -> dict[str, Any]:
    """Many prompts on one embedding in one call: 16 and 64 clicks, to masks at the photo's size."""
    from sam_edge.predictor import SamPredictor

    inputs = Inputs(job["photo"])
    predictor = SamPredictor(load_engine(job))
    predictor.set_image(inputs.photo(0))
    samples = {}
    for count in job["prompts"]:
        labels = np.ones((count, 1))

        def stage(i: int, count: int = count, labels: NDArray[np.float64] = labels) -> None:
            predictor.predict_batch(inputs.clicks(count, i), labels, multimask_output=False)

        samples[f"prompts_{count}"] = repeat(stage, job["scenario_iterations"], job["min_seconds"])
    return {"samples_ms": samples, "memory_after": memory_bytes()}


def everything(job: dict[str, Any]) -> dict[str, Any]:
    """Everything mode on one photo, 32 x 32 points: one run, after one encode and decode as warm-up."""
    from sam_edge.everything import SamAutomaticMaskGenerator
    from sam_edge.predictor import SamPredictor

    inputs = Inputs(job["photo"])
    engine = load_engine(job)
    predictor = SamPredictor(engine)
    predictor.set_image(inputs.photo(1))
    predictor.predict(inputs.click(0), np.array([1]))
    generator = SamAutomaticMaskGenerator(
        engine,
        points_per_side=job["points_per_side"],
        pred_iou_thresh=engine.spec.pred_iou_thresh,
        stability_score_thresh=engine.spec.stability_score_thresh,
        output_mode="coco_rle",
    )
    start = perf_counter()
    masks = generator.generate(inputs.photo(0))
    return {
        "samples_ms": {"everything": [1e3 * (perf_counter() - start)]},
        "masks": len(masks),
        "memory_after": memory_bytes(),
    }


def sustained(job: dict[str, Any]) -> dict[str, Any]:
    """Photo after photo, each with a click, for `seconds`: medians of windows of ten seconds."""
    from sam_edge.benchmarks.machine import machine_state
    from sam_edge.image import read_photo
    from sam_edge.predictor import SamPredictor

    inputs = Inputs(job["photo"])
    predictor = SamPredictor(load_engine(job))
    window_s = min(WINDOW_S, job["seconds"] / 2)
    windows: list[dict[str, Any]] = []
    begin = perf_counter()
    while (done := perf_counter() - begin) < job["seconds"] - 0.01:
        samples: list[float] = []
        end = begin + min(done + window_s, job["seconds"])
        while perf_counter() < end:
            start = perf_counter()
            predictor.set_image(read_photo(inputs.file(len(samples))))
            predictor.predict(inputs.click(len(samples)), np.array([1]), multimask_output=False)
            samples.append(1e3 * (perf_counter() - start))
        windows.append(
            {"start_s": round(done, 2), "p50_ms": float(np.median(samples)), "iterations": len(samples)}
            | {k: v for k, v in machine_state().items() if k in ("clock_mhz", "temperature_c")}
        )
    return {"windows": windows, "memory_after": memory_bytes()}


def quality(job: dict[str, Any]) -> dict[str, Any]:
    """The masks of every object and prompt kind, for the comparison with the reference's."""
    from sam_edge.benchmarks.masks import draw_masks

    _check_checkpoint(job["path"], job.get("expected_sha256", ""))
    return draw_masks(load_engine(job), [Path(path) for path in job["data"]], job["photos"])


def _check_checkpoint(path: str, expected_sha256: str) -> None:
    """Raises CheckpointError where an artifact was made from other weights than those that are here."""
    if not expected_sha256:
        return
    from sam_edge.evaluate.provenance import file_sha256
    from sam_edge.runtimes import loaded_path

    found = loaded_path(path, "torch")
    got = file_sha256(found) if found.is_file() else "no file"
    if got != expected_sha256:
        raise CheckpointError(
            f"the weights of {path} here ({got[:12]}) are not those the artifact was made from "
            f"({expected_sha256[:12]}). Give the right checkpoint with --reference."
        )


def profile(job: dict[str, Any]) -> dict[str, Any]:
    """Time by operator, from the runtime's own profiler."""
    from sam_edge.benchmarks.profiles import profile as profiled

    return profiled(job)


def ceilings(job: dict[str, Any]) -> dict[str, Any]:
    """What this machine can do at most."""
    from sam_edge.benchmarks.ceilings import measure_ceilings

    return measure_ceilings(job["threads"])


def peer(job: dict[str, Any]) -> dict[str, Any]:
    """One graph of others on noise, for the table of peers."""
    from sam_edge.benchmarks.peers import measure_peer

    return measure_peer(job)


TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "single": single,
    "multi": multi,
    "everything": everything,
    "sustained": sustained,
    "quality": quality,
    "profile": profile,
    "ceilings": ceilings,
    "peer": peer,
}


def _jpeg(photo: Photo) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def main(job_path: str) -> int:
    """Do the job in a file and write its result beside it; a refusal is a result, too."""
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    try:
        result, status = TASKS[job["task"]](job), 0
    except SamEdgeError as error:
        result, status = {"refused": str(error), "kind": type(error).__name__}, EXIT_REFUSED
    Path(job["out"]).write_text(json.dumps(result), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
