"""Time by operator type, from each runtime's own profiler, in one table.

A runtime's profiler gives `Op`s, one a call; here they are added up by type. Operations count a multiply-add as two,
bytes are inputs, weights and outputs, each once: what must move at least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from sam_edge.contract import Embedding, Float32, ModelSpec, PromptTensors
from sam_edge.errors import RuntimeUnavailable
from sam_edge.prompts import build_prompts

__all__ = ["GRAPHS", "Op", "example_embedding", "example_feeds", "fold", "operations", "profile"]

GRAPHS = ("encoder", "decoder")
RUNS = 10  # after one that is not counted


@dataclass(frozen=True)
class Op:
    """One operator in one run. `operations` and `bytes` are 0 where the profiler's shapes do not tell."""

    type: str
    ms: float
    operations: float = 0.0
    bytes: float = 0.0


def fold(ops: Sequence[Op], runs: int) -> list[dict[str, Any]]:
    """By type, the most time first, per run: calls, ms, share, and achieved rates where the counts are known."""
    whole = sum(op.ms for op in ops)
    table = []
    for kind in {op.type for op in ops}:
        mine = [op for op in ops if op.type == kind]
        ms = sum(op.ms for op in mine)
        row: dict[str, Any] = {
            "type": kind,
            "calls": round(len(mine) / runs),
            "ms": round(ms / runs, 4),
            "share_percent": round(100 * ms / whole, 2) if whole else 0.0,
        }
        for name, total in (("gflop_per_s", sum(o.operations for o in mine)), ("gb_per_s", sum(o.bytes for o in mine))):
            if total and ms:
                row[name] = round(total / ms / 1e6, 3)
        table.append(row)
    return sorted(table, key=lambda row: (-row["ms"], row["type"]))


def operations(kind: str, inputs: Sequence[Sequence[int]], output: Sequence[int]) -> float:
    """Of a convolution or a product by the shapes of its inputs and output; 0 for all else, which moves bytes instead.

    Weights are (out, in a group, height, width), or with a group axis in front.
    """
    if "ConvTranspose" in kind or "Deconvolution" in kind:
        weights = _weights(inputs)
        return 2.0 * prod(inputs[0]) * prod(weights[1:]) if weights else 0.0
    if "Conv" in kind:
        weights = _weights(inputs)
        return 2.0 * prod(output) * prod(weights[-3:]) if weights else 0.0
    if any(name in kind for name in ("MatMul", "Gemm", "FullyConnected")) and inputs and inputs[0]:
        return 2.0 * prod(output) * _inner(inputs, output)
    return 0.0


def _inner(inputs: Sequence[Sequence[int]], output: Sequence[int]) -> float:
    """The length of a product's sums, whichever operand is transposed: M K times K N over M N is K squared."""
    second = next((shape for shape in inputs[1:] if len(shape) >= 2), ())
    if not second or not prod(output):
        return float(inputs[0][-1])
    batch = prod(second[:-2]) if len(second) > 2 else 1
    return float(round((prod(inputs[0]) * prod(second) / (prod(output) * batch)) ** 0.5))


def _weights(inputs: Sequence[Sequence[int]]) -> Sequence[int]:
    return next((shape for shape in inputs[1:] if len(shape) >= 4), ())


def profile(job: dict[str, Any]) -> dict[str, Any]:
    """Graph -> table of `fold`. Raises RuntimeUnavailable for a runtime whose profiler cannot be used here."""
    runtime = job["runtime"]
    if runtime == "onnx":
        from sam_edge.benchmarks.profile_onnxruntime import profile_onnx as profiled
    elif runtime == "openvino":
        from sam_edge.benchmarks.profile_openvino import profile_openvino as profiled
    elif runtime == "torch":
        from sam_edge.benchmarks.profile_torch import profile_torch as profiled
    else:
        raise RuntimeUnavailable(
            f"{runtime} has no operator profiler that Python can reach. On a device, LiteRT's benchmark_model has one: "
            "see `sam-edge device-kit`."
        )
    profiler: Callable[[dict[str, Any], int], Mapping[str, Sequence[Op]]] = profiled
    return {"runs": RUNS, "graphs": {graph: fold(ops, RUNS) for graph, ops in profiler(job, RUNS).items()}}


def example_feeds(spec: ModelSpec) -> tuple[Float32, PromptTensors]:
    """An image of noise (1, 3, S, S) and one click: kernels take the same time whatever is in the picture."""
    side = spec.image_size
    image = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
    click = build_prompts(spec, (side, side), point_coords=np.full((1, 1, 2), side / 2.0), point_labels=np.ones((1, 1)))
    return image, click


def example_embedding(outputs: Sequence[Float32]) -> Embedding:
    return Embedding(outputs[0], tuple(outputs[1:]))
