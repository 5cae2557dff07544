"""ONNX Runtime's profiler: a JSON trace with each kernel's time and shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam_edge.artifact import Artifact, open_artifact
from sam_edge.benchmarks.profiles import Op, example_embedding, example_feeds, operations
from sam_edge.contract import Float32
from sam_edge.errors import require
from sam_edge.runtimes import ASSETS
from sam_edge.runtimes.feeds import decoder_feeds, encoder_feeds

__all__ = ["profile_onnx"]

Feeds = Mapping[str, Float32]
# A packed weight is no input any more: a second session, whose times do not count, is asked for the shapes.
UNPACKED = ("session.disable_prepacking", "1")
WAIT_IN_SLEEP = ("session.intra_op.allow_spinning", "0")  # as runtimes/with_onnxruntime.py has it


def profile_onnx(job: dict[str, Any], runs: int) -> dict[str, list[Op]]:
    """Graph -> its operators' calls in `runs` runs. Raises ArtifactError, RuntimeUnavailable."""
    folder = ASSETS / job["path"] if (ASSETS / job["path"]).is_dir() else Path(job["path"])
    artifact = open_artifact(folder)
    image, click = example_feeds(artifact.manifest.spec)
    encoder = encoder_feeds(artifact.manifest.spec, image)
    found = {}
    found["encoder"], outputs = _graph(artifact, "encoder", encoder, job, runs)
    decoder = decoder_feeds(artifact.manifest.spec, example_embedding(outputs), click)
    found["decoder"], _ = _graph(artifact, "decoder", decoder, job, runs)
    return found


def _graph(
    artifact: Artifact, name: str, feeds: Feeds, job: dict[str, Any], runs: int
) -> tuple[list[Op], list[Float32]]:
    graph = artifact.read_graph(name)
    timed, outputs = _trace(graph, feeds, job, runs, (WAIT_IN_SLEEP,))
    whole, _ = _trace(graph, feeds, job, 1, (WAIT_IN_SLEEP, UNPACKED))
    shapes = {event["name"]: event["args"] for event in whole}
    return [_op(event, shapes.get(event["name"], event["args"])) for event in timed], outputs


def _trace(
    graph: bytes, feeds: Feeds, job: dict[str, Any], runs: int, entries: tuple[tuple[str, str], ...]
) -> tuple[list[dict[str, Any]], list[Float32]]:
    """The kernels of `runs` runs after one that is not counted, and the last run's outputs."""
    ort = require("onnxruntime", extra="onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(job["scratch"]) / "trace")
    options.log_severity_level = 3
    for key, value in entries:
        options.add_session_config_entry(key, value)
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    for _ in range(runs + 1):
        outputs = session.run(None, dict(feeds))
    path = Path(session.end_profiling())
    events = [e for e in json.loads(path.read_text(encoding="utf-8")) if e.get("cat") == "Node" and "dur" in e]
    events = [e for e in events if e["name"].endswith("_kernel_time")]
    return events[len(events) // (runs + 1) :], outputs


def _op(event: dict[str, Any], shaped: dict[str, Any]) -> Op:
    args = event["args"]
    inputs = [shape for entry in shaped.get("input_type_shape", ()) for shape in entry.values()]
    outputs = [shape for entry in args.get("output_type_shape", ()) for shape in entry.values()]
    moved = sum(int(shaped.get(name, 0)) for name in ("activation_size", "parameter_size", "output_size"))
    count = operations(args["op_name"], inputs, outputs[0]) if outputs else 0.0
    return Op(args["op_name"], event["dur"] / 1e3, count, moved)
