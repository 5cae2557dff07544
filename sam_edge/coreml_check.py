"""Reads the structure of Core ML packages, and refuses what a model file may not do, before a runtime sees a byte.

    encoder.mlpackage/Manifest.json                               names the two files below it, nothing else
    encoder.mlpackage/Data/com.apple.CoreML/model.mlmodel         a protobuf message, Model
    encoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin    weights, found by their offset

and the same for the decoder. Allowed is one ML Program of one function without inner blocks, of the operators in
OPERATORS, with tensors of plain numbers; weights lie inside weight.bin, whole and of the type they are declared with.
Everything else of the format is refused: other kinds of models, custom layers, pipelines, states, images, other paths.

What comes out is also the program itself: `runtimes/mil_interpreter.py` computes it where there is no Core ML.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from sam_edge.errors import ArtifactError
from sam_edge.manifest import POINTS, PROMPTS, Graph, Tensor
from sam_edge.protobuf import (
    Refused,
    WireReader,
    as_bytes,
    as_int,
    as_text,
    message,
    numbers,
    refuse,
)

__all__ = [
    "MANIFEST_PATH",
    "MODEL_PATH",
    "OPERATORS",
    "OPSET",
    "SUFFIX",
    "WEIGHTS_PATH",
    "MilType",
    "MilValue",
    "Operation",
    "Program",
    "describe",
    "package_manifest",
    "read_package",
]

MODEL_PATH = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS_PATH = "Data/com.apple.CoreML/weights/weight.bin"
MANIFEST_PATH = "Manifest.json"
PACKAGE_PATHS = (MANIFEST_PATH, MODEL_PATH, WEIGHTS_PATH)
SUFFIX = ".mlpackage"

MAX_FIELDS = 4_000_000  # protobuf fields read in one file; nano's decoder has 60,000
MAX_MANIFEST_BYTES = 1 << 16
MAX_RANK = 5  # Core ML's own
MAX_ELEMENTS = 1 << 30
MAX_INLINE = 1 << 16  # numbers of one value inside the message; the converter moves weights to weight.bin
MAX_RANGE = 1 << 16  # prompts or points of a flexible size
SPECIFICATION_VERSION, OPSET = 8, "CoreML7"  # iOS 17 and macOS 14
BLOB_FILE = "@model_path/weights/weight.bin"

# What these models are made of. Each has its arithmetic in runtimes/mil_ops.py, so that every file that is let through
# can also be checked where there is no Core ML.
OPERATORS = {
    "const", "constexpr_affine_dequantize", "constexpr_cast", "constexpr_lut_to_dense", "quantize", "dequantize",
    "abs", "cast", "clip", "cos", "exp", "gelu", "relu", "relu6", "rsqrt", "sigmoid", "sin", "softmax", "sqrt",
    "square", "tanh",
    "add", "equal", "floor_div", "greater", "less", "logical_and", "logical_not", "logical_or", "maximum", "minimum",
    "mul", "not_equal", "pow", "real_div", "sub", "select",
    "conv", "conv_transpose", "linear", "matmul", "avg_pool", "batch_norm", "layer_norm",
    "reduce_max", "reduce_mean", "reduce_min", "reduce_sum", "upsample_bilinear", "upsample_nearest_neighbor",
    "concat", "expand_dims", "gather", "pad", "reshape", "shape", "slice_by_index", "split", "squeeze", "stack", "tile",
    "transpose",
}  # fmt: skip

# MILSpec.DataType -> (name, bytes an element; 0 for texts).
DTYPES = {
    1: ("bool", 1), 2: ("string", 0), 10: ("float16", 2), 11: ("float32", 4), 21: ("int8", 1), 22: ("int16", 2),
    23: ("int32", 4), 31: ("uint8", 1), 32: ("uint16", 2), 33: ("uint32", 4),
}  # fmt: skip
BYTES = dict(DTYPES.values())
FLOAT32_ARRAY = 65568  # ArrayFeatureType.FLOAT32, of the description's inputs and outputs
# weight.bin's own numbers for types, and what it stands for there.
BLOB_DTYPES = {1: "float16", 2: "float32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 14: "int32", 15: "uint32"}
BLOB_HEADER, BLOB_ENTRY = struct.Struct("<II56x"), struct.Struct("<IIQQ40x")
BLOB_SENTINEL, BLOB_VERSION, BLOB_ALIGNMENT = 0xDEADBEEF, 2, 64

# Model.proto, FeatureTypes.proto and MIL.proto, as far as an ML Program over multi-arrays needs them.
MODEL = message("Model", "1v 2b 502b")
DESCRIPTION = message("ModelDescription", "1b* 10b* 100b")
FEATURE = message("FeatureDescription", "1b 3b")
FEATURE_TYPE = message("FeatureType", "5b")
ARRAY = message("ArrayFeatureType", "1v* 2v 31b")
SHAPE_RANGE = message("ShapeRange", "1b*")
SIZE_RANGE = message("SizeRange", "1v 2v")
PROGRAM = message("Program", "1v 2b* 4b*")
ENTRY = message("map entry", "1b 2b")
FUNCTION = message("Function", "1b* 2b 3b*")
BLOCK = message("Block", "2b* 3b*")
OPERATION = message("Operation", "1b 2b* 3b* 5b*")
ARGUMENT = message("Argument", "1b*")
BINDING = message("Binding", "1b 2b")
NAMED_TYPE = message("NamedValueType", "1b 2b")
VALUE_TYPE = message("ValueType", "1b")
TENSOR_TYPE = message("TensorType", "1v 2v 3b*")
DIMENSION = message("Dimension", "1b 2b")
SIZE = message("Dimension size", "1v")
NOTHING = message("UnknownDimension", "")
VALUE = message("Value", "2b 3b 5b")
IMMEDIATE = message("ImmediateValue", "1b")
BLOB = message("BlobFileValue", "1b 2v")
TENSOR_VALUE = message("TensorValue", "1b 2b 3b 4b 7b")
FLOATS, INTS, TEXTS = message("floats", "1f*"), message("ints", "1v*"), message("strings", "1b*")
RAW = message("bytes", "1b")

Shape: TypeAlias = tuple[int | None, ...]  # None: a size that a caller chooses


@dataclass(frozen=True)
class MilType:
    dtype: str
    shape: Shape


@dataclass(frozen=True)
class MilValue:
    """A constant. `data`: its elements as little-endian bytes, or as numbers or texts where the message has them so."""

    type: MilType
    data: memoryview | tuple[int, ...] | tuple[str, ...]


@dataclass(frozen=True)
class Operation:
    """`inputs`: parameter -> names of earlier results, or constants. `outputs`: name -> type."""

    type: str
    inputs: dict[str, tuple[str | MilValue, ...]]
    outputs: dict[str, MilType]
    attributes: dict[str, MilValue]


@dataclass(frozen=True)
class Program:
    """One graph. `largest`: what its flexible sizes may be at most, "prompts" and "points"; empty if all are fixed."""

    inputs: dict[str, MilType]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]
    largest: dict[str, int] = field(default_factory=dict)

    @property
    def types(self) -> dict[str, MilType]:
        """Of all named results and inputs."""
        return self.inputs | {name: kind for op in self.operations for name, kind in op.outputs.items()}


def describe(files: Mapping[str, bytes]) -> dict[str, Graph]:
    """encoder.mlpackage/... and decoder.mlpackage/... to the graphs "encoder" and "decoder". Raises ArtifactError."""
    packages = sorted({name.partition("/")[0] for name in files})
    graphs = {}
    for package in packages:
        if not package.endswith(SUFFIX):
            raise ArtifactError(
                f"{package} is no part of a Core ML model, expected NAME.mlpackage/.... Export it again."
            )
        program = read_package(files, package)
        types = program.types
        counts = Counter(op.type for op in program.operations)
        graphs[package.removesuffix(SUFFIX)] = Graph(
            f"{package}/{MODEL_PATH}",
            tuple(_tensor(name, kind) for name, kind in program.inputs.items()),
            tuple(_tensor(name, types[name]) for name in program.outputs),
            dict(sorted(counts.items())),
        )
    return graphs


def read_package(files: Mapping[str, bytes], package: str) -> Program:
    """The program of the package `package` (encoder.mlpackage) among an artifact's files. Raises ArtifactError."""
    inside = {name.removeprefix(f"{package}/"): data for name, data in files.items() if name.startswith(f"{package}/")}
    if sorted(inside) != sorted(PACKAGE_PATHS):
        raise ArtifactError(
            f"{package} has the files {', '.join(sorted(inside))[:200] or 'none'}, expected "
            f"{', '.join(PACKAGE_PATHS)}. Export the model again."
        )
    try:
        _check_package_manifest(inside[MANIFEST_PATH])
        return _Reader(inside[WEIGHTS_PATH]).model(memoryview(inside[MODEL_PATH]))
    except Refused as refused:
        raise ArtifactError(
            f"{package} is refused before it runs: {refused}. Use a model file that this package exported."
        ) from None


def package_manifest() -> bytes:
    """Manifest.json of a package with one model and its weights; identifiers are free, and so always the same."""
    model, weights = "7c5e1b3e-5a3d-4d4a-9a51-0a6f6c3a9d01", "7c5e1b3e-5a3d-4d4a-9a51-0a6f6c3a9d02"

    def item(name: str, path: str, description: str) -> dict[str, str]:
        return {"author": "com.apple.CoreML", "description": description, "name": name, "path": path}

    entries = {
        model: item("model.mlmodel", "com.apple.CoreML/model.mlmodel", "CoreML Model Specification"),
        weights: item("weights", "com.apple.CoreML/weights", "CoreML Model Weights"),
    }
    content = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": model}
    return (json.dumps(content, indent=4) + "\n").encode()


def _check_package_manifest(data: bytes) -> None:
    """Only paths that this module has checked may be named in it."""
    if len(data) > MAX_MANIFEST_BYTES:
        refuse(f"its {MANIFEST_PATH} has {len(data)} bytes")
    try:
        content = json.loads(data)
        entries = content["itemInfoEntries"]
        paths = sorted(entry["path"] for entry in entries.values())
        root = entries[content["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        refuse(f"its {MANIFEST_PATH} does not list a model and its weights")
    if paths != ["com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"] or root != paths[0]:
        refuse(f"its {MANIFEST_PATH} names {str(paths)[:100]}")


def _tensor(name: str, kind: MilType) -> Tensor:
    return Tensor(name, kind.dtype, tuple(_size_name(axis) if s is None else s for axis, s in enumerate(kind.shape)))


def _size_name(axis: int) -> str:
    """The contract's flexible sizes: prompts come first, points second."""
    if axis > 1:
        refuse(f"axis {axis} of an input or output has a flexible size, only prompts and points may")
    return (PROMPTS, POINTS)[axis]


class _Reader:
    def __init__(self, weights: bytes) -> None:
        self.wire = WireReader(MAX_FIELDS)
        self.weights = _Weights(memoryview(weights))
        self.largest: dict[str, int] = {}

    def model(self, data: memoryview) -> Program:
        version, parts = 0, {}
        for number, value in self.wire.fields(data, MODEL):
            if number == 1:
                version = as_int(value)
            else:
                parts[number] = as_bytes(value)
        if version != SPECIFICATION_VERSION or len(parts) != 2:
            refuse(f"it is no ML Program of specification version {SPECIFICATION_VERSION} (got {version})")
        inputs, outputs = self.description(parts[2])
        program = self.program(parts[502])
        if inputs != program.inputs:
            refuse("the inputs of its description are not those of its program")
        types = program.types
        if outputs != list(program.outputs) or any(types[name].dtype != "float32" for name in outputs):
            refuse("the outputs of its description are not those of its program, in float32")
        for name in outputs:
            _tensor(name, types[name])  # refuses what the contract has no name for
        return program

    # The description: what a caller of Core ML sees.

    def description(self, data: memoryview) -> tuple[dict[str, MilType], list[str]]:
        inputs: dict[str, MilType] = {}
        outputs: list[str] = []
        for number, value in self.wire.fields(data, DESCRIPTION):
            if number == 1:
                name, kind = self.feature(as_bytes(value))
                if name in inputs:
                    refuse(f"input {name!r:.60} is there twice")
                inputs[name] = kind
            elif number == 10:
                outputs.append(self.feature(as_bytes(value))[0])
        return inputs, outputs

    def feature(self, data: memoryview) -> tuple[str, MilType]:
        name = ""
        shape: tuple[int | None, ...] = ()
        for number, value in self.wire.fields(data, FEATURE):
            if number == 1:
                name = as_text(value)
            else:
                for _, array in self.wire.fields(as_bytes(value), FEATURE_TYPE):
                    shape = self.array(as_bytes(array))
        return name, MilType("float32", shape)

    def array(self, data: memoryview) -> Shape:
        shape: list[int | None] = []
        ranges: list[tuple[int, int]] = []
        dtype = 0
        for number, value in self.wire.fields(data, ARRAY):
            if number == 1:
                shape += numbers(value, MAX_RANK)
            elif number == 2:
                dtype = as_int(value)
            else:
                ranges = [self.size_range(as_bytes(item)) for _, item in self.wire.fields(as_bytes(value), SHAPE_RANGE)]
        if dtype != FLOAT32_ARRAY:
            refuse("an input or output is no float32 array")
        if len(shape) > MAX_RANK or (ranges and len(ranges) != len(shape)):
            refuse("the shape of an input or output is past the bounds")
        for axis, (low, high) in enumerate(ranges):
            if (low, high) == (shape[axis], shape[axis]):
                continue
            if not (low == 1 <= high <= MAX_RANGE):
                refuse(f"a flexible size goes from {low} to {high}")
            shape[axis] = None
            if self.largest.setdefault(_size_name(axis), high) != high:
                refuse(f"its inputs do not agree how many {_size_name(axis)} they take")
        return _bounded(tuple(shape))

    def size_range(self, data: memoryview) -> tuple[int, int]:
        bounds = {number: as_int(value) for number, value in self.wire.fields(data, SIZE_RANGE)}
        return bounds.get(1, 0), bounds.get(2, 0)

    # The program.

    def program(self, data: memoryview) -> Program:
        functions: dict[str, memoryview] = {}
        for number, value in self.wire.fields(data, PROGRAM):
            if number == 2:  # 1 is a version, 4 says who built it
                functions |= self.entry(as_bytes(value), functions)
        if list(functions) != ["main"]:
            refuse(f"it has the functions {str(list(functions))[:100]}, expected main")
        inputs: dict[str, MilType] = {}
        blocks: dict[str, memoryview] = {}
        for number, value in self.wire.fields(functions["main"], FUNCTION):
            if number == 1:
                inputs |= self.named_type(as_bytes(value), inputs)
            elif number == 3:
                blocks |= self.entry(as_bytes(value), blocks)
            elif as_text(value) != OPSET:
                refuse(f"its opset is {as_text(value)!r:.60}, expected {OPSET}")
        if list(blocks) != [OPSET]:
            refuse(f"it is for {str(list(blocks))[:100]}, expected {OPSET}")
        return self.block(blocks[OPSET], inputs)

    def block(self, data: memoryview, inputs: dict[str, MilType]) -> Program:
        known = dict(inputs)
        operations, outputs = [], []
        for number, value in self.wire.fields(data, BLOCK):
            if number == 3:
                operations.append(self.operation(as_bytes(value), known))
            else:
                outputs.append(as_text(value))
        if not outputs or len(set(outputs)) < len(outputs) or not known.keys() >= set(outputs):
            refuse("its outputs are not results of its operators")
        return Program(inputs, tuple(operations), tuple(outputs), self.largest)

    def operation(self, data: memoryview, known: dict[str, MilType]) -> Operation:
        kind = ""
        inputs: dict[str, tuple[str | MilValue, ...]] = {}
        outputs: dict[str, MilType] = {}
        attributes: dict[str, MilValue] = {}
        for number, value in self.wire.fields(data, OPERATION):
            if number == 1:
                kind = as_text(value)
            elif number == 2:
                for key, argument in self.entry(as_bytes(value), inputs).items():
                    inputs[key] = self.argument(argument, known)
            elif number == 3:
                outputs |= self.named_type(as_bytes(value), known, outputs)
            else:
                for key, constant in self.entry(as_bytes(value), attributes).items():
                    attributes[key] = self.value(constant)
        if kind not in OPERATORS:
            refuse(f"operator {kind!r:.60} is not allowed")
        if kind == "const" and (len(outputs) != 1 or "val" not in attributes):
            refuse("a constant has no value")
        if kind == "const" and attributes["val"].type != next(iter(outputs.values())):
            refuse("a constant's value is of another type than it says")
        known |= outputs
        return Operation(kind, inputs, outputs, attributes)

    def entry(self, data: memoryview, seen: Mapping[str, object]) -> dict[str, memoryview]:
        """A map's key and value; protobuf keeps the last of equal keys, here the second one is refused."""
        key, content = "", memoryview(b"")
        for number, value in self.wire.fields(data, ENTRY):
            if number == 1:
                key = as_text(value)
            else:
                content = as_bytes(value)
        if key in seen:
            refuse(f"{key!r:.60} is there twice")
        return {key: content}

    def argument(self, data: memoryview, known: dict[str, MilType]) -> tuple[str | MilValue, ...]:
        found: list[str | MilValue] = []
        for _, binding in self.wire.fields(data, ARGUMENT):
            items = list(self.wire.fields(as_bytes(binding), BINDING))
            if len(items) != 1:
                refuse("an argument is no name and no value, or both")
            number, value = items[0]
            if number == 1 and as_text(value) not in known:
                refuse(f"{as_text(value)!r:.60} is used before it is computed")
            found.append(as_text(value) if number == 1 else self.value(as_bytes(value)))
        return tuple(found)

    def named_type(self, data: memoryview, *seen: Mapping[str, object]) -> dict[str, MilType]:
        name, kind = "", None
        for number, value in self.wire.fields(data, NAMED_TYPE):
            if number == 1:
                name = as_text(value)
            else:
                kind = self.type(as_bytes(value))
        if not name or any(name in names for names in seen) or kind is None:
            refuse(f"{name!r:.60} has no type, or is computed twice")
        return {name: kind}

    def type(self, data: memoryview) -> MilType:
        found = None
        for _, tensor in self.wire.fields(data, VALUE_TYPE):
            found = self.tensor_type(as_bytes(tensor))
        return found or refuse("a value is no tensor")

    def tensor_type(self, data: memoryview) -> MilType:
        dtype, rank = 0, 0
        shape: list[int | None] = []
        for number, value in self.wire.fields(data, TENSOR_TYPE):
            if number == 1:
                dtype = as_int(value)
            elif number == 2:
                rank = as_int(value)
            else:
                shape.append(self.dimension(as_bytes(value)))
        if dtype not in DTYPES:
            refuse(f"tensor type {dtype} is not allowed")
        if rank != len(shape):
            refuse(f"a tensor has rank {rank}, but {len(shape)} sizes")
        return MilType(DTYPES[dtype][0], _bounded(tuple(shape)))

    def dimension(self, data: memoryview) -> int | None:
        items = list(self.wire.fields(data, DIMENSION))
        if len(items) != 1:
            refuse("a size is neither known nor unknown")
        number, value = items[0]
        fields = dict(self.wire.fields(as_bytes(value), SIZE if number == 1 else NOTHING))
        return as_int(fields.get(1, 0)) if number == 1 else None

    def value(self, data: memoryview) -> MilValue:
        parts = {number: as_bytes(value) for number, value in self.wire.fields(data, VALUE)}
        if 2 not in parts or len(parts) != 2:
            refuse("a constant has no type, or not one value")
        kind = self.type(parts[2])
        if None in kind.shape:
            refuse("a constant has no known size")
        content = self.weights.find(*self.blob(parts[5]), kind) if 5 in parts else self.immediate(parts[3], kind)
        return MilValue(kind, content)

    def blob(self, data: memoryview) -> tuple[str, int]:
        name, offset = "", 0
        for number, value in self.wire.fields(data, BLOB):
            if number == 1:
                name = as_text(value)
            else:
                offset = as_int(value)
        return name, offset

    def immediate(self, data: memoryview, kind: MilType) -> memoryview | tuple[int, ...] | tuple[str, ...]:
        """The numbers of a small constant, which lie in the message itself."""
        for _, tensor in self.wire.fields(data, IMMEDIATE):
            for number, value in self.wire.fields(as_bytes(tensor), TENSOR_VALUE):
                expected, content = self.inline(number, as_bytes(value), kind.dtype)
                elements = _elements(kind.shape)
                if kind.dtype not in expected or elements > MAX_INLINE or elements != _count(content, kind.dtype):
                    refuse(f"a constant of type {kind.dtype} and shape {kind.shape} does not hold the data for it")
                return content
        return refuse("a constant has no value")

    def inline(
        self, number: int, data: memoryview, dtype: str
    ) -> tuple[tuple[str, ...], memoryview | tuple[int, ...] | tuple[str, ...]]:
        """(types that are stored so, content) of one member of TensorValue."""
        if number == 1:
            return ("float32",), memoryview(b"".join(as_bytes(v) for _, v in self.wire.fields(data, FLOATS)))
        if number == 4:
            return ("string",), tuple(as_text(v) for _, v in self.wire.fields(data, TEXTS))
        if number == 7:
            raw = [as_bytes(v) for _, v in self.wire.fields(data, RAW)]
            return ("float16", "int8", "uint8", "int16", "uint16", "uint32"), raw[0] if raw else memoryview(b"")
        listed: list[int] = []
        for _, value in self.wire.fields(data, INTS):
            listed += numbers(value, MAX_INLINE)
            if len(listed) > MAX_INLINE:
                refuse("a constant is too long to lie in the message")
        signed = tuple(_signed(x) for x in listed)
        if number == 3:
            return ("bool",), tuple(int(x != 0) for x in signed)
        low, high = {"uint32": (0, 1 << 32)}.get(dtype, (-(1 << 31), 1 << 31))
        if any(not low <= x < high for x in signed):
            refuse("a constant is past 32 bits")
        return ("int32", "uint32", "int8", "uint8", "int16", "uint16"), signed


class _Weights:
    """weight.bin: a header, then entries of 64 bytes that say where their data lie."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        if len(data) < BLOB_HEADER.size or BLOB_HEADER.unpack_from(data)[1] != BLOB_VERSION:
            refuse(f"its weights are no weight file of version {BLOB_VERSION}")

    def find(self, file_name: str, offset: int, kind: MilType) -> memoryview:
        if file_name != BLOB_FILE:
            refuse(f"a weight lies in {file_name!r:.100}, expected {BLOB_FILE}")
        if offset % BLOB_ALIGNMENT or not BLOB_HEADER.size <= offset <= len(self.data) - BLOB_ENTRY.size:
            refuse(f"a weight's entry at {offset} is not inside the file")
        sentinel, dtype, size, start = BLOB_ENTRY.unpack_from(self.data, offset)
        if sentinel != BLOB_SENTINEL or BLOB_DTYPES.get(dtype) != kind.dtype:
            refuse(f"there is no weight of type {kind.dtype} at {offset}")
        if size != _elements(kind.shape) * BYTES[kind.dtype]:
            refuse(f"a weight of type {kind.dtype} and shape {kind.shape} has {size} bytes")
        if start % BLOB_ALIGNMENT or start < BLOB_HEADER.size or start > len(self.data) - size:
            refuse("a weight's data are not inside the file")
        return self.data[start : start + size]


def _bounded(shape: Shape) -> Shape:
    known = [size for size in shape if size is not None]
    if len(shape) > MAX_RANK or any(size > MAX_ELEMENTS for size in known) or _elements(tuple(known)) > MAX_ELEMENTS:
        refuse(f"a tensor of shape {shape[:MAX_RANK]} is past the bounds")
    return shape


def _elements(shape: Shape) -> int:
    elements = 1
    for size in shape:  # sizes have been bounded, and so is their number
        elements *= size or 0
    return elements


def _count(content: memoryview | tuple[int, ...] | tuple[str, ...], dtype: str) -> int:
    if isinstance(content, tuple):
        return len(content)
    return len(content) // BYTES[dtype] if len(content) % BYTES[dtype] == 0 else -1


def _signed(value: int) -> int:
    """A varint of protobuf's int32: negative numbers have 64 bits."""
    return value - (1 << 64) if value >= 1 << 63 else value
