"""Reads the structure of an ONNX file, and refuses what a model file may not do, before a runtime sees a byte.

The `onnx` library is not needed to run a model, and its parser would already be a reader of foreign bytes. This one
knows the few protobuf messages (onnx.proto3, IR version 8 to 13) that an exported network needs. Everything else is
refused: external data, functions, foreign operator domains, sparse tensors, training graphs, fields and types that are
not listed. All occurrences of a field are checked, as protobuf merges them. Weights are skipped, not copied.

It bounds what the file itself declares. What an operator computes from its inputs at run time, it cannot bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from sam_edge.errors import ArtifactError
from sam_edge.manifest import Graph, Tensor
from sam_edge.protobuf import Refused, WireReader, as_bytes, as_int, as_text, count_numbers, message, numbers, refuse

__all__ = ["OnnxStructure", "describe", "read_onnx_structure"]

MAX_FIELDS = 1_000_000  # protobuf fields read in one file; nano's two files have about 20,000
MAX_GRAPH_DEPTH = 4  # of subgraphs in attributes
MAX_RANK = 8
MAX_ELEMENTS = 1 << 30  # of one tensor, stored or declared: 4 GiB of float32
IR_VERSIONS = range(8, 14)
OPSETS = range(17, 27)
DOMAINS = ("", "ai.onnx")

# TensorProto.DataType -> (name, bytes an element). Strings, complex numbers and packed 4-bit types are not listed.
DTYPES = {
    1: ("float32", 4), 2: ("uint8", 1), 3: ("int8", 1), 4: ("uint16", 2), 5: ("int16", 2), 6: ("int32", 4),
    7: ("int64", 8), 9: ("bool", 1), 10: ("float16", 2), 11: ("float64", 8), 12: ("uint32", 4), 13: ("uint64", 8),
}  # fmt: skip

# onnx.proto3 without training_info, functions, configuration; sparse and external tensors; types other than tensors;
# quantization_annotation; references to function attributes. Names, texts and metadata are read over.
MODEL = message("ModelProto", "1v 2b 3b 4b 5v 6b 7b 8b* 14b*")
OPSET_ID = message("OperatorSetIdProto", "1b 2v")
GRAPH = message("GraphProto", "1b* 2b 5b* 10b 11b* 12b* 13b* 16b*")
NODE = message("NodeProto", "1b* 2b* 3b 4b 5b* 6b 7b 9b*")
ATTRIBUTE = message("AttributeProto", "1b 2f 3v 4b 5b 6b 7f* 8v* 9b* 10b* 11b* 13b 20v")
TENSOR = message("TensorProto", "1v* 2v 4f* 5v* 7v* 8b 9b 10d* 11v* 12b 14v 16b*")
VALUE_INFO = message("ValueInfoProto", "1b 2b 3b 4b*")
TYPE = message("TypeProto", "1b 6b")
TENSOR_TYPE = message("TypeProto.Tensor", "1v 2b")
SHAPE = message("TensorShapeProto", "1b*")
DIMENSION = message("TensorShapeProto.Dimension", "1v 2b 3b")


@dataclass
class OnnxStructure:
    """inputs and outputs of the main graph as declared; op_counts includes subgraphs."""

    ir_version: int = 0
    opset: int = 0
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    op_counts: Counter[str] = field(default_factory=Counter)
    initializer_elements: int = 0


def read_onnx_structure(data: bytes, file_name: str) -> OnnxStructure:
    """Walk the ModelProto in `data`. Raises ArtifactError, naming the file and what is not allowed in it."""
    try:
        return _Reader().model(memoryview(data))
    except Refused as refused:
        raise ArtifactError(
            f"{file_name} is refused before it runs: {refused}. Use a model file that this package exported."
        ) from None


def describe(files: Mapping[str, bytes]) -> dict[str, Graph]:
    """encoder.onnx and decoder.onnx to the graphs "encoder" and "decoder". Raises ArtifactError."""
    graphs = {}
    for name, data in files.items():
        stem, dot, suffix = name.partition(".")
        if (dot + suffix) != ".onnx":
            raise ArtifactError(f"{name} is no file of an ONNX model, expected NAME.onnx. Export the model again.")
        found = read_onnx_structure(data, name)
        counts = dict(sorted(found.op_counts.items()))
        graphs[stem] = Graph(name, tuple(found.inputs), tuple(found.outputs), counts)
    return graphs


class _Reader:
    def __init__(self) -> None:
        self.wire = WireReader(MAX_FIELDS)
        self.found = OnnxStructure()

    def model(self, data: memoryview) -> OnnxStructure:
        for number, value in self.wire.fields(data, MODEL):
            if number == 1:
                self.found.ir_version = _listed(as_int(value), IR_VERSIONS, "IR version")
            elif number == 7:
                self.graph(as_bytes(value), depth=0)
            elif number == 8:
                self.opset_import(as_bytes(value))
        if not (self.found.ir_version and self.found.opset and self.found.outputs):
            refuse("it is no ONNX model with an IR version, an opset and a graph with outputs")
        return self.found

    def opset_import(self, data: memoryview) -> None:
        domain, version = "", 0
        for number, value in self.wire.fields(data, OPSET_ID):
            if number == 1:
                domain = as_text(value)
            else:
                version = as_int(value)
        _listed(domain, DOMAINS, "operator domain")
        self.found.opset = _listed(version, OPSETS, "opset")

    def graph(self, data: memoryview, depth: int) -> None:
        if depth > MAX_GRAPH_DEPTH:
            refuse(f"graphs are nested deeper than {MAX_GRAPH_DEPTH}")
        for number, value in self.wire.fields(data, GRAPH):
            if number == 1:
                self.node(as_bytes(value), depth)
            elif number == 5:
                self.found.initializer_elements += self.tensor(as_bytes(value))
            elif number in (11, 12, 13):
                tensor = self.value_info(as_bytes(value))
                if depth == 0 and number != 13:
                    (self.found.inputs if number == 11 else self.found.outputs).append(tensor)

    def node(self, data: memoryview, depth: int) -> None:
        op_type = ""
        for number, value in self.wire.fields(data, NODE):
            if number == 4:
                op_type = as_text(value)
            elif number == 5:
                self.attribute(as_bytes(value), depth)
            elif number == 7:
                _listed(as_text(value), DOMAINS, "operator domain")
        self.found.op_counts[op_type] += 1

    def attribute(self, data: memoryview, depth: int) -> None:
        for number, value in self.wire.fields(data, ATTRIBUTE):
            if number in (5, 10):
                self.tensor(as_bytes(value))
            elif number in (6, 11):
                self.graph(as_bytes(value), depth + 1)

    def tensor(self, data: memoryview) -> int:
        """Check one TensorProto: its data lie inside it, as many as its shape needs. Returns its elements."""
        dims: list[int] = []
        data_type = stored = 0
        raw: int | None = None
        for number, value in self.wire.fields(data, TENSOR):
            if number == 1:
                dims += numbers(value, MAX_RANK)
            elif number == 2:
                data_type = as_int(value)
            elif number == 9:
                raw = len(as_bytes(value))
            elif number in (4, 5, 7, 10, 11):
                stored += count_numbers(value, TENSOR.fields[number][0])
            elif number == 14 and value != 0:
                refuse("a tensor's data lie outside the file")
        elements = _elements(dims)
        _, size = DTYPES[_listed(data_type, tuple(DTYPES), "tensor type")]
        # Protobuf keeps the last raw_data; a runtime prefers it to typed data. Both at once is nobody's export.
        if (raw is not None and (raw != elements * size or stored)) or (raw is None and stored != elements):
            refuse(f"a tensor of shape {dims} does not hold the data for it")
        return elements

    def value_info(self, data: memoryview) -> Tensor:
        name = dtype = ""
        shape: tuple[int | str, ...] = ()
        for number, value in self.wire.fields(data, VALUE_INFO):
            if number == 1:
                name = as_text(value)
            elif number == 2:
                for kind, tensor in self.wire.fields(as_bytes(value), TYPE):
                    if kind == 1:
                        dtype, shape = self.tensor_type(as_bytes(tensor))
        return Tensor(name, dtype, shape)

    def tensor_type(self, data: memoryview) -> tuple[str, tuple[int | str, ...]]:
        data_type = 0
        shape: list[int | str] = []
        for number, value in self.wire.fields(data, TENSOR_TYPE):
            if number == 1:
                data_type = as_int(value)
            else:
                shape += [self.dimension(as_bytes(dim)) for _, dim in self.wire.fields(as_bytes(value), SHAPE)]
        _elements([size for size in shape if isinstance(size, int)])
        return DTYPES[_listed(data_type, tuple(DTYPES), "tensor type")][0], tuple(shape)

    def dimension(self, data: memoryview) -> int | str:
        size: int | str = "?"
        for number, value in self.wire.fields(data, DIMENSION):
            if number < 3:
                size = as_int(value) if number == 1 else as_text(value)
        return size


def _elements(dims: list[int]) -> int:
    elements = 1
    for size in dims:  # one by one: a product of many sizes could be a very long number
        elements *= size
        if elements > MAX_ELEMENTS or size > MAX_ELEMENTS:
            break
    if len(dims) > MAX_RANK or elements > MAX_ELEMENTS or any(size > MAX_ELEMENTS for size in dims):
        refuse(f"a tensor of shape {dims[:MAX_RANK]} is past the bounds")
    return elements


_T = TypeVar("_T")


def _listed(value: _T, allowed: Container[_T], what: str) -> _T:
    if value not in allowed:
        refuse(f"{what} {value!r:.60} is not allowed")
    return value
