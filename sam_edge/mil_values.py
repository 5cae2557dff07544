"""The constants and types of Core ML's ML Programs, read from MIL.proto's messages and from weight.bin.

Whatever is declared is bounded, and a constant is as long as its shape says; everything else is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeAlias

from sam_edge.protobuf import WireReader, as_bytes, as_int, as_text, message, numbers, refuse

__all__ = ["MAX_RANK", "MilType", "MilValue", "Shape", "ValueReader", "Weights", "bounded"]

MAX_RANK = 5  # Core ML's own
MAX_ELEMENTS = 1 << 30
MAX_INLINE = 1 << 16  # numbers of one value inside the message; the converter moves weights to weight.bin
BLOB_FILE = "@model_path/weights/weight.bin"

# MILSpec.DataType -> (name, bytes an element; 0 for texts).
DTYPES = {
    1: ("bool", 1), 2: ("string", 0), 10: ("float16", 2), 11: ("float32", 4), 21: ("int8", 1), 22: ("int16", 2),
    23: ("int32", 4), 31: ("uint8", 1), 32: ("uint16", 2), 33: ("uint32", 4),
}  # fmt: skip
BYTES = dict(DTYPES.values())
# weight.bin's own numbers for types, and what it stands for there.
BLOB_DTYPES = {1: "float16", 2: "float32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 14: "int32", 15: "uint32"}
BLOB_HEADER, BLOB_ENTRY = struct.Struct("<II56x"), struct.Struct("<IIQQ40x")
BLOB_SENTINEL, BLOB_VERSION, BLOB_ALIGNMENT = 0xDEADBEEF, 2, 64

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


class ValueReader:
    """Reads types, and values from the message or from `weights`."""

    def __init__(self, wire: WireReader, weights: Weights) -> None:
        self.wire, self.weights = wire, weights

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
        return MilType(DTYPES[dtype][0], bounded(tuple(shape)))

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


class Weights:
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


def bounded(shape: Shape) -> Shape:
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
