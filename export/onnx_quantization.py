"""int8 for ONNX graphs, through ONNX Runtime's own quantizer; recipes name units, this finds their nodes.

Static: QDQ with unsigned activations and signed weights per channel, which is what CPUs with VNNI or dot products run
fast. Nodes between quantized ones (ReLU6, Add, Resize) are quantized too: left out, a ReLU6 is quantized before it
clips, and the error grows threefold.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sam_edge.contract import IMAGE, Float32
from sam_edge.errors import ExportError, require
from sam_edge.export.units import check_known, matched

__all__ = ["quantize_dynamic", "quantize_static", "quantize_weights", "weighted_nodes"]

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MIN_ELEMENTS = 1024  # smaller weights are not worth their scales


def quantize_static(
    graph: bytes, calibration: Sequence[Float32], weights: dict[str, Float32], float_units: Sequence[str]
) -> bytes:
    """An encoder with int8 weights and activations; `weights` from `unit_weights`. Raises ExportError."""
    onnx, quantization = require("onnx", "export"), require("onnxruntime.quantization", "export")
    if not calibration:
        raise ExportError("int8 needs photos to calibrate on and got none. Give a folder of photos with --calibrate.")
    model = _named(onnx.load_from_string(graph))
    check_known(float_units, weights)
    nodes = matched(weights, weighted_nodes(model))
    excluded = [nodes[unit].name for unit in float_units]
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        onnx.save(model, prepared)
        with _quiet():
            quantization.quantize_static(
                prepared,
                quantized,
                _reader(quantization, calibration),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                nodes_to_exclude=excluded,
            )
        return _clean(onnx.load(quantized))


def quantize_dynamic(graph: bytes) -> bytes:
    """int8 weights for matrix products, whose activations are then measured while running. Convolutions stay float:
    quantized so they run at 0.4 of their float speed."""
    onnx, quantization = require("onnx", "export"), require("onnxruntime.quantization", "export")
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        onnx.save(_named(onnx.load_from_string(graph)), prepared)
        with _quiet():
            quantization.quantize_dynamic(
                prepared,
                quantized,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
            )
        return _clean(onnx.load(quantized))


def quantize_weights(graph: bytes, weights: dict[str, Float32], float_units: Sequence[str]) -> bytes:
    """Each large weight as int8 with a scale a channel, computed in float32: a quarter of the bytes, no faster."""
    onnx = require("onnx", "export")
    model = _named(onnx.load_from_string(graph))
    check_known(float_units, weights)
    nodes = matched(weights, weighted_nodes(model))
    kept = {nodes[unit].name for unit in float_units}
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    extra: list[Any] = []
    done: set[str] = set()
    for node in [n for n in model.graph.node if n.op_type in WEIGHTED and n.name not in kept]:
        name = next((i for i in node.input if i in initializers), "")
        tensor = initializers.get(name)
        if tensor is None or name in done or np.prod(tensor.dims) < MIN_ELEMENTS:
            continue
        done.add(name)
        axis = 0 if node.op_type == "Conv" else 1
        values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        axis = min(axis, values.ndim - 1)
        others = tuple(i for i in range(values.ndim) if i != axis)
        scale = np.maximum(np.abs(values).max(others), 1e-12) / 127
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        rounded = np.clip(np.round(values / scale.reshape(shape)), -127, 127).astype(np.int8)
        parts = {"_int8": rounded, "_scale": scale.astype(np.float32), "_zero": np.zeros(scale.shape, np.int8)}
        tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, name + "_int8"))
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(parts[end], name + end) for end in ("_scale", "_zero")
        )
        extra.append(onnx.helper.make_node("DequantizeLinear", [name + end for end in parts], [name], axis=axis))
    nodes_after = [*extra, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes_after)
    return _clean(model)


def weighted_nodes(model: Any) -> Iterator[tuple[Any, Float32]]:
    """Each node with a stored weight, and that weight."""
    onnx = require("onnx", "export")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:  # a stored weight that is cast or turned is still that weight
        if node.op_type in ("Cast", "Transpose", "Reshape") and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
        elif node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in stored:
            yield node, onnx.numpy_helper.to_array(stored[node.input[1]])


def _named(model: Any) -> Any:
    """Every node gets a name: the quantizer knows nodes by it."""
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    return model


def _clean(model: Any) -> bytes:
    onnx = require("onnx", "export")
    model.producer_name, model.producer_version, model.doc_string = "sam_edge", "", ""
    for field in (model.metadata_props, model.graph.metadata_props, model.graph.value_info):
        del field[:]
    used = {node.domain for node in model.graph.node}
    for entry in [entry for entry in model.opset_import if entry.domain not in used | {""}]:
        model.opset_import.remove(entry)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _reader(quantization: Any, calibration: Sequence[Float32]) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images: Iterator[Float32] = iter(calibration)

        def get_next(self) -> dict[str, Float32] | None:
            image = next(self.images, None)
            return None if image is None else {IMAGE: image}

    return Reader()


class _quiet:
    """The quantizer logs advice that has been followed."""

    def __enter__(self) -> None:
        self.level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().setLevel(self.level)
