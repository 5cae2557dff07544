"""A TFLite model small enough to be written by hand: the contract at 64 pixels, for any sizes of prompts and points.

The encoder pools and mixes channels. The decoder's logits are brightness, plus what foreground points, embedding and
mask input say; the four masks are multiples of them. Empty slots count for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from sam_edge.contract import Float32
from tests.small_artifact import SPEC

__all__ = ["FACTORS", "NARROW", "WIDE", "read", "small_decoder", "small_encoder", "write"]

WIDE = np.array([[1.0, 0.5, 0.2], [-1.0, 0.3, 0.7], [0.1, 0.9, -0.4], [0.6, -0.2, 0.8]], np.float32)
NARROW = np.array([[1.0, 1.0, 1.0], [0.5, -0.5, 0.25]], np.float32)
FACTORS = np.array([1, 2, 3, 4], np.float32)
TO_NHWC, TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]


def read(data: bytes) -> Any:
    """The file as the schema's objects."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))


def write(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class Writer:
    """Collects tensors and operators of one file."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version, self.model.description = 3, "by hand"
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.model.subgraphs, self.model.signatureDefs = [], []

    def start(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []

    def tensor(self, name: str, *shape: int, values: Any = None, dtype: int = schema.TensorType.FLOAT32) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer, tensor.hasRank = name, list(shape), dtype, 0, True
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, values: Any, dtype: Any = np.int32) -> int:
        array = np.asarray(values, dtype)
        kind = schema.TensorType.INT32 if array.dtype == np.int32 else schema.TensorType.FLOAT32
        return self.tensor(f"c{len(self.graph.tensors)}", *array.shape, values=array, dtype=kind)

    def op(self, name: str, inputs: list[int], output: int, options: Any = None, kind: str = "") -> int:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
        known = [other.builtinCode for other in self.model.operatorCodes]
        if code.builtinCode not in known:
            self.model.operatorCodes.append(code)
            known.append(code.builtinCode)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = known.index(code.builtinCode), inputs, [output]
        if options is not None:
            operator.builtinOptionsType, operator.builtinOptions = getattr(schema.BuiltinOptions, kind), options
        self.graph.operators.append(operator)
        return output

    def unary(self, name: str, x: int, *shape: int) -> int:
        return self.op(name, [x], self.tensor("", *shape))

    def binary(self, name: str, a: int, b: int, *shape: int) -> int:
        options = getattr(schema, f"{name.title()}OptionsT")()
        return self.op(name, [a, b], self.tensor("", *shape), options, f"{name.title()}Options")

    def reduce(self, name: str, x: int, axes: list[int], *shape: int, keep: bool) -> int:
        options = schema.ReducerOptionsT()
        options.keepDims = keep
        return self.op(name, [x, self.constant(axes)], self.tensor("", *shape), options, "ReducerOptions")

    def reshape(self, x: int, *shape: int) -> int:
        return self.op("RESHAPE", [x, self.constant(shape)], self.tensor("", *shape))

    def transpose(self, x: int, order: list[int], output: int) -> int:
        return self.op("TRANSPOSE", [x, self.constant(order)], output)

    def pool(self, x: int, size: int, *shape: int) -> int:
        options = schema.Pool2DOptionsT()
        options.padding = schema.Padding.VALID
        options.strideW = options.strideH = options.filterWidth = options.filterHeight = size
        return self.op("AVERAGE_POOL_2D", [x], self.tensor("", *shape), options, "Pool2DOptions")

    def mix(self, x: int, weights: Float32, *shape: int) -> int:
        """A 1 x 1 convolution."""
        options = schema.Conv2DOptionsT()
        options.padding, options.strideW, options.strideH = schema.Padding.VALID, 1, 1
        inputs = [x, self.constant(weights[:, None, None, :], np.float32), self.constant(np.zeros(len(weights)), "f4")]
        return self.op("CONV_2D", inputs, self.tensor("", *shape), options, "Conv2DOptions")

    def finish(self, signature: str, inputs: list[int], outputs: list[int]) -> None:
        self.graph.inputs, self.graph.outputs, self.graph.name = inputs, outputs, signature
        definition = schema.SignatureDefT()
        definition.signatureKey, definition.subgraphIndex = signature, len(self.model.subgraphs)
        definition.inputs, definition.outputs = [self._map(i) for i in inputs], [self._map(i) for i in outputs]
        self.model.signatureDefs.append(definition)
        self.model.subgraphs.append(self.graph)

    def _map(self, index: int) -> Any:
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = self.graph.tensors[index].name, index
        return entry


def small_encoder(change: Callable[[Any], None] | None = None) -> bytes:
    """encoder.tflite after `change` of its objects."""
    w = Writer()
    w.start()
    image = w.tensor("image", 1, 3, 64, 64)
    at_4 = w.pool(w.transpose(image, TO_NHWC, w.tensor("", 1, 64, 64, 3)), 4, 1, 16, 16, 3)
    at_8 = w.pool(at_4, 2, 1, 8, 8, 3)
    at_16 = w.pool(at_8, 2, 1, 4, 4, 3)
    outputs = [
        w.transpose(w.mix(x, weights, 1, n, n, len(weights)), TO_NCHW, w.tensor(name, 1, len(weights), n, n))
        for x, weights, n, name in (
            (at_16, WIDE, 4, "image_embeddings"),
            (at_4, NARROW, 16, "high_res_features_0"),
            (at_8, NARROW, 8, "high_res_features_1"),
        )
    ]
    w.finish("encode", [image], outputs)
    return _changed(w, change)


def small_decoder(sizes: Iterable[tuple[int, int]] = ((1, 4),), change: Callable[[Any], None] | None = None) -> bytes:
    """decoder.tflite with a signature for each (prompts, points), after `change` of its objects."""
    w = Writer()
    for prompts, points in sizes:
        _decode(w, prompts, points)
    return _changed(w, change)


def _decode(w: Writer, b: int, n: int) -> None:
    w.start()
    deep, fine, middle = (w.tensor(name, 1, *shape) for name, shape in (
        ("image_embeddings", (4, 4, 4)), ("high_res_features_0", (2, 16, 16)), ("high_res_features_1", (2, 8, 8)),
    ))  # fmt: skip
    coords, labels = w.tensor("point_coords", b, n, 2), w.tensor("point_labels", b, n)
    mask, has = w.tensor("mask_input", b, 1, 16, 16), w.tensor("has_mask_input", b)
    place = w.reduce("SUM", coords, [2], b, n, keep=False)
    scaled = w.binary("MUL", place, w.constant([[1 / SPEC.image_size]], "f4"), b, n)
    votes = w.reduce("SUM", w.binary("MUL", scaled, w.unary("RELU", labels, b, n), b, n), [1], b, keep=False)
    logits = w.binary("MUL", mask, w.reshape(has, b, 1, 1, 1), b, 1, 16, 16)
    logits = w.binary("ADD", logits, w.reshape(votes, b, 1, 1, 1), b, 1, 16, 16)
    logits = w.binary("ADD", logits, w.reduce("MEAN", fine, [1], 1, 1, 16, 16, keep=True), b, 1, 16, 16)
    for x in (deep, middle):
        logits = w.binary("ADD", logits, w.reduce("MEAN", x, [1, 2, 3], 1, 1, 1, 1, keep=True), b, 1, 16, 16)
    low_res_masks = w.binary("MUL", logits, w.constant(FACTORS[None, :, None, None], "f4"), b, 4, 16, 16)
    score = w.binary("MUL", w.reshape(votes, b, 1), w.constant(np.ones((1, 4)), "f4"), b, 4)
    iou_predictions = w.unary("LOGISTIC", score, b, 4)
    for index, name in ((low_res_masks, "low_res_masks"), (iou_predictions, "iou_predictions")):
        w.graph.tensors[index].name = name
    inputs = [deep, fine, middle, coords, labels, mask, has]
    w.finish(f"decode_{b}_{n}", inputs, [low_res_masks, iou_predictions])


def _changed(w: Writer, change: Callable[[Any], None] | None) -> bytes:
    if change is not None:
        change(w.model)
    return write(w.model)
