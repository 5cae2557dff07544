"""OpenVINO's counters: the compiled model's own graph, with each node's time, type and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sam_edge.artifact import Artifact, open_artifact
from sam_edge.benchmarks.profiles import Op, example_embedding, example_feeds, operations
from sam_edge.contract import Float32
from sam_edge.runtimes.feeds import decoder_feeds, encoder_feeds
from sam_edge.runtimes.with_openvino import OPTIONS, import_openvino, openvino_core

__all__ = ["profile_openvino"]

PRODUCTS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
NOT_RUN = ("Input", "Output", "Const", "Parameter", "Result")


def profile_openvino(job: dict[str, Any], runs: int) -> dict[str, list[Op]]:
    """Graph -> its nodes, each `runs` times with its mean time. Raises ArtifactError, RuntimeUnavailable."""
    artifact = open_artifact(Path(job["path"]))
    image, click = example_feeds(artifact.manifest.spec)
    found = {}
    found["encoder"], outputs = _graph(artifact, "encoder", encoder_feeds(artifact.manifest.spec, image), job, runs)
    feeds = decoder_feeds(artifact.manifest.spec, example_embedding(outputs), click)
    found["decoder"], _ = _graph(artifact, "decoder", feeds, job, runs)
    return found


def _graph(
    artifact: Artifact, name: str, feeds: dict[str, Float32], job: dict[str, Any], runs: int
) -> tuple[list[Op], list[Float32]]:
    ov = import_openvino()
    core, files, file = openvino_core(), artifact.read_graphs(), artifact.manifest.graphs[name].file
    weights = ov.Tensor(np.frombuffer(files[file.removesuffix("xml") + "bin"], np.uint8))
    model = core.read_model(model=files[file], weights=weights)
    model.reshape({key: list(array.shape) for key, array in feeds.items()})  # so that every node has a shape
    threads = {"INFERENCE_NUM_THREADS": str(job["threads"])} if job["threads"] else {}
    compiled = core.compile_model(model, "CPU", OPTIONS | threads | {"PERF_COUNT": "YES"})
    request = compiled.create_infer_request()
    request.infer(feeds)
    times: dict[str, list[float]] = {}
    for _ in range(runs):
        results = request.infer(feeds)
        for node in request.profiling_info:
            times.setdefault(node.node_name, []).append(node.real_time.total_seconds() * 1e3)
    ops = [op for node in compiled.get_runtime_model().get_ordered_ops() for op in _ops(node, times)]
    return ops, [results[output] for output in compiled.outputs]


def _ops(node: Any, times: dict[str, list[float]]) -> list[Op]:
    kind = node.get_rt_info()["layerType"]
    kind = str(kind.astype(str) if hasattr(kind, "astype") else kind)
    if kind in NOT_RUN or node.get_friendly_name() not in times:
        return []
    inputs = [list(port.get_shape()) for port in node.inputs()]
    outputs = [list(port.get_shape()) for port in node.outputs()]
    if kind in PRODUCTS and node.input(0).get_element_type().size == 1:
        kind += "/int8"
    moved = sum(_bytes(port) for port in (*node.inputs(), *node.outputs()))
    count = operations(kind, inputs, outputs[0]) if outputs else 0.0
    return [Op(kind, ms, count, moved) for ms in times[node.get_friendly_name()]]


def _bytes(port: Any) -> float:
    return float(np.prod(list(port.get_shape())) * port.get_element_type().size)
