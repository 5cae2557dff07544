"""Reads the structure of a LiteRT (TFLite) file, and refuses what a model file may not do, before a runtime sees it.

LiteRT's Python interpreter follows every offset of a flatbuffer without a look at where it leads, so this is the one
check of them. It knows the tables of TFLite's schema (version 3) that an exported network needs, and verifies each
that a runtime could read: offsets, vtables, vectors and texts lie inside the file, numbers of tensors, buffers and
operators exist, constants are as long as their shapes say, operators follow each other. Refused are custom and
TensorFlow ("Flex") operators, control flow and variables, sparse tensors, buffers behind the flatbuffer or outside the
file, sizes left open, and metadata that let a device compute in half precision.

It bounds what the file itself declares. What an operator computes from its inputs at run time, it cannot bound.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from sam_edge.contract import IMAGE, PREDICTION_OUTPUTS, PROMPT_INPUTS
from sam_edge.errors import ArtifactError
from sam_edge.flatbuffer import FlatbufferFile, Table
from sam_edge.manifest import POINTS, PROMPTS, Graph, Tensor
from sam_edge.protobuf import Refused, refuse

__all__ = [
    "DECODER_NAME",
    "ENCODER_NAME",
    "ENCODE_SIGNATURE",
    "Signature",
    "TFLiteStructure",
    "decode_signature",
    "decode_sizes",
    "describe",
    "read_tflite_structure",
]

ENCODER_NAME, DECODER_NAME = "encoder.tflite", "decoder.tflite"
ENCODE_SIGNATURE = "encode"

MAX_ITEMS = 2_000_000  # tables, fields and numbers read in one file; nano's two files have about 60,000
MAX_RANK = 6
MAX_ELEMENTS = 1 << 30  # of one tensor, stored or declared: 4 GiB of float32
MAX_SIGNATURES = 64
MAX_VERSION = 20  # of an operator
SCHEMA_VERSION = 3
METADATA = ("min_runtime_version",)

# TensorType -> (name, bytes an element)
DTYPES = {0: ("float32", 4), 1: ("float16", 2), 2: ("int32", 4), 6: ("bool", 1), 9: ("int8", 1)}
INT8, INT32 = 9, 2

# Fields by position, in the letters of flatbuffer.py.
MODEL = "u T T s T - T T - -"
OPERATOR_CODE = "b - i i"
SUBGRAPH = "T I I T s -"
TENSOR = "I b u s t - - - b - -"
BUFFER = "B - -"
OPERATOR = "u I I b t - - - - - - - - -"
QUANTIZATION = "F F F L - - i"
METADATA_ENTRY = "s u"
SIGNATURE = "T T s - u"
TENSOR_MAP = "s u"

# BuiltinOperator -> (name, inputs it needs, number of its options' table, the table's fields).
OPERATORS: dict[int, tuple[str, int, int, str]] = {
    0: ("ADD", 2, 11, "b -"),
    1: ("AVERAGE_POOL_2D", 1, 5, "b p p p p b"),
    2: ("CONCATENATION", 1, 10, "i b"),
    3: ("CONV_2D", 2, 1, "b p p b d d b"),
    4: ("DEPTHWISE_CONV_2D", 2, 2, "b p p i b d d"),
    6: ("DEQUANTIZE", 1, 0, ""),
    9: ("FULLY_CONNECTED", 2, 8, "b - b b b -"),
    14: ("LOGISTIC", 1, 0, ""),
    18: ("MUL", 2, 21, "b"),
    19: ("RELU", 1, 0, ""),
    21: ("RELU6", 1, 0, ""),
    22: ("RESHAPE", 1, 17, "I"),
    23: ("RESIZE_BILINEAR", 2, 15, "- - b b"),
    25: ("SOFTMAX", 1, 9, "f"),
    28: ("TANH", 1, 0, ""),
    34: ("PAD", 2, 22, ""),
    39: ("TRANSPOSE", 2, 26, ""),
    40: ("MEAN", 2, 27, "b"),
    41: ("SUB", 2, 28, "b -"),
    42: ("DIV", 2, 29, "b"),
    47: ("EXP", 1, 33, ""),
    53: ("CAST", 1, 0, ""),
    55: ("MAXIMUM", 2, 39, ""),
    57: ("MINIMUM", 2, 39, ""),
    59: ("NEG", 1, 42, ""),
    65: ("SLICE", 3, 48, ""),
    66: ("SIN", 1, 0, ""),
    67: ("TRANSPOSE_CONV", 3, 49, "b p p b b"),
    71: ("EQUAL", 2, 53, ""),
    72: ("NOT_EQUAL", 2, 54, ""),
    74: ("SUM", 2, 27, "b"),
    75: ("SQRT", 1, 0, ""),
    76: ("RSQRT", 1, 0, ""),
    82: ("REDUCE_MAX", 2, 27, "b"),
    89: ("REDUCE_MIN", 2, 27, "b"),
    92: ("SQUARE", 1, 66, ""),
    99: ("SQUARED_DIFFERENCE", 2, 76, ""),
    101: ("ABS", 1, 78, ""),
    108: ("COS", 1, 84, ""),
    114: ("QUANTIZE", 1, 89, ""),
    123: ("SELECT_V2", 3, 98, ""),
    126: ("BATCH_MATMUL", 2, 101, "b b b"),
    130: ("BROADCAST_TO", 2, 104, ""),
    150: ("GELU", 1, 116, "b"),
    152: ("RELU_0_TO_1", 1, 0, ""),
}

# Inputs beyond those needed: a bias, which may also be left out as -1, and the shape of RESHAPE.
EXTRA_INPUTS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1, "RESHAPE": 1}
MAX_CONCATENATED = 1000

# Where the contract's tensors have the sizes that a caller chooses.
OPEN_SIZES: dict[str, tuple[str, ...]] = dict.fromkeys((*PROMPT_INPUTS, *PREDICTION_OUTPUTS), (PROMPTS,)) | {
    "point_coords": (PROMPTS, POINTS),
    "point_labels": (PROMPTS, POINTS),
}


@dataclass(frozen=True)
class Signature:
    """One entry point: tensors as declared, sizes as stored."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass
class TFLiteStructure:
    """op_counts is over all signatures; operators on int8 tensors count as "CONV_2D/int8"."""

    signatures: list[Signature] = field(default_factory=list)
    op_counts: Counter[str] = field(default_factory=Counter)


def decode_signature(prompts: int, points: int) -> str:
    """The name of the decoder's signature for that many prompts, each with that many slots."""
    return f"decode_{prompts}_{points}"


def decode_sizes(signature: str) -> tuple[int, int]:
    """What `decode_signature` was made of; (0, 0) for any other name."""
    match = re.fullmatch(r"decode_([1-9]\d{0,3})_([1-9]\d{0,3})", signature, re.ASCII)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def read_tflite_structure(data: bytes, file_name: str) -> TFLiteStructure:
    """Verify the flatbuffer in `data`. Raises ArtifactError, naming the file and what is not allowed in it."""
    try:
        return _read_model(FlatbufferFile(data, MAX_ITEMS))
    except Refused as refused:
        raise _refused(file_name, str(refused)) from None


def _refused(file_name: str, what: str) -> ArtifactError:
    return ArtifactError(f"{file_name} is refused before it runs: {what}. Use a model file that this package exported.")


def describe(files: Mapping[str, bytes]) -> dict[str, Graph]:
    """encoder.tflite and decoder.tflite to the graphs "encoder" and "decoder". Raises ArtifactError."""
    graphs = {}
    for name, data in files.items():
        if name not in (ENCODER_NAME, DECODER_NAME):
            raise ArtifactError(
                f"{name} is no file of a TFLite model, expected {ENCODER_NAME} and {DECODER_NAME}. Export it again."
            )
        found = read_tflite_structure(data, name)
        try:
            only = _encode(found) if name == ENCODER_NAME else _decode(found)
        except Refused as refused:
            raise _refused(name, str(refused)) from None
        counts = dict(sorted(found.op_counts.items()))
        graphs[name.removesuffix(".tflite")] = Graph(name, only.inputs, only.outputs, counts)
    return graphs


def _encode(found: TFLiteStructure) -> Signature:
    names = [signature.name for signature in found.signatures]
    if names != [ENCODE_SIGNATURE] or [t.name for t in found.signatures[0].inputs] != [IMAGE]:
        refuse(f"it has the signatures {', '.join(names):.100}, expected {ENCODE_SIGNATURE} of an {IMAGE}")
    return found.signatures[0]


def _decode(found: TFLiteStructure) -> Signature:
    """All signatures as one, with names for the sizes in which they differ."""
    sizes = [decode_sizes(signature.name) for signature in found.signatures]
    pairs = [(prompts, points) for prompts in sorted({a for a, _ in sizes}) for points in sorted({b for _, b in sizes})]
    if sorted(sizes) != pairs or (0, 0) in sizes:
        names = ", ".join(signature.name for signature in found.signatures)
        refuse(f"it has the signatures {names:.100}, expected {decode_signature(1, 8)} and the like for all its sizes")
    open_ones = [_with_names(signature) for signature in found.signatures]
    if any((s.inputs, s.outputs) != (open_ones[0].inputs, open_ones[0].outputs) for s in open_ones):
        refuse("its signatures have other tensors than each other")
    return open_ones[0]


def _with_names(signature: Signature) -> Signature:
    sizes = dict(zip((PROMPTS, POINTS), decode_sizes(signature.name), strict=True))

    def named(tensor: Tensor) -> Tensor:
        names = OPEN_SIZES.get(tensor.name, ())
        if tensor.shape[: len(names)] != tuple(sizes[name] for name in names):
            refuse(f"{tensor.name} of {signature.name} has shape {tensor.shape}")
        return Tensor(tensor.name, tensor.dtype, (*names, *tensor.shape[len(names) :]))

    return Signature(signature.name, tuple(map(named, signature.inputs)), tuple(map(named, signature.outputs)))


@dataclass(frozen=True)
class _TensorFacts:
    name: str
    dtype: int
    shape: tuple[int, ...]
    constant: bool


def _read_model(file: FlatbufferFile) -> TFLiteStructure:
    model = file.root(b"TFL3", MODEL, "Model")
    if model.number(0) != SCHEMA_VERSION:
        refuse(f"its schema has version {model.number(0)}, expected {SCHEMA_VERSION}")
    model.text(3)
    codes = [_operator_code(code) for code in model.tables(1, OPERATOR_CODE, "OperatorCode")]
    buffers = [buffer.size(0) for buffer in model.tables(4, BUFFER, "Buffer")]
    if not buffers or buffers[0][0]:
        refuse("its first buffer is not the empty one")
    for entry in model.tables(6, METADATA_ENTRY, "Metadata"):
        if entry.text(0) not in METADATA or entry.number(1) >= len(buffers):
            refuse(f"metadata {entry.text(0)!r:.60} is not allowed")
    subgraphs = model.tables(2, SUBGRAPH, "SubGraph")
    definitions = model.tables(7, SIGNATURE, "SignatureDef")
    if sorted(x.number(4) for x in definitions) != list(range(len(subgraphs))) or len(subgraphs) > MAX_SIGNATURES:
        refuse(f"it has {len(subgraphs)} subgraphs and {len(definitions)} signatures, expected one for each")
    found = TFLiteStructure()
    for definition in definitions:
        graph = subgraphs[definition.number(4)]
        found.signatures.append(_signature(definition, graph, codes, buffers, found.op_counts))
    if not found.signatures:
        refuse("it has no signatures")
    return found


def _operator_code(code: Table) -> int:
    """The number of a builtin operator; the older of both fields holds those below 127."""
    number = max(code.number(0), code.number(3))
    if number not in OPERATORS:
        refuse(f"operator {number} is not allowed")
    if not 0 <= code.number(2) <= MAX_VERSION:
        refuse(f"operator {OPERATORS[number][0]} has version {code.number(2)}")
    return number


def _signature(
    definition: Table, graph: Table, codes: list[int], buffers: list[tuple[int, int]], op_counts: Counter[str]
) -> Signature:
    graph.text(4)
    tensors = [_tensor(tensor, buffers) for tensor in graph.tables(0, TENSOR, "Tensor")]
    inputs, outputs = graph.numbers(1), graph.numbers(2)
    declared = (_names(definition, 0, inputs, tensors), _names(definition, 1, outputs, tensors))
    known = {index for index, tensor in enumerate(tensors) if tensor.constant}
    if known & set(inputs):
        refuse("an input is a constant")
    known |= set(inputs)
    for operator in graph.tables(3, OPERATOR, "Operator"):
        op_counts[_operator(operator, codes, tensors, known)] += 1
    if not set(outputs) <= known:
        refuse("an output is never computed")
    return Signature(definition.text(2), *declared)


def _names(definition: Table, slot: int, indices: tuple[int, ...], tensors: list[_TensorFacts]) -> tuple[Tensor, ...]:
    """A signature's tensors in the order of its subgraph."""
    names = {entry.number(1): entry.text(0) for entry in definition.tables(slot, TENSOR_MAP, "TensorMap")}
    if not indices or set(names) != set(indices) or not len(set(names.values())) == len(names) == len(indices):
        refuse(f"a signature names {len(names)} of {len(indices)} tensors of its subgraph")
    if not all(0 <= index < len(tensors) for index in indices):
        refuse("a signature names a tensor that is not there")
    return tuple(Tensor(names[i], DTYPES[tensors[i].dtype][0], tensors[i].shape) for i in indices)


def _tensor(tensor: Table, buffers: list[tuple[int, int]]) -> _TensorFacts:
    shape, dtype, buffer = tensor.numbers(0), tensor.number(1), tensor.number(2)
    name = tensor.text(3)
    if dtype not in DTYPES:
        refuse(f"tensor type {dtype} is not allowed")
    size = DTYPES[dtype][1]
    if len(shape) > MAX_RANK or any(not 0 < n <= MAX_ELEMENTS for n in shape) or math.prod(shape) > MAX_ELEMENTS:
        refuse(f"a tensor of shape {shape[:MAX_RANK]} is past the bounds")
    if buffer >= len(buffers):
        refuse(f"buffer {buffer} is not there")
    stored, start = buffers[buffer]
    if stored and (stored != math.prod(shape) * size or start % size):
        refuse(f"a tensor of shape {shape} does not hold the data for it")
    quantization = tensor.table(4, QUANTIZATION, "QuantizationParameters")
    _check_quantization(quantization, shape, needed=dtype == INT8)
    return _TensorFacts(name, dtype, shape, constant=stored > 0)


def _check_quantization(table: Table | None, shape: tuple[int, ...], needed: bool) -> None:
    scales = table.floats(2) if table else ()
    if table is None or not scales:
        if needed or (table is not None and table.has(3)):
            refuse("an int8 tensor has no scale")
        return
    zeros, axis = table.numbers(3), table.number(6)
    whole = len(scales) == 1 or (0 <= axis < len(shape) and len(scales) == shape[axis])
    if not whole or len(zeros) != len(scales) or not 0 <= axis < max(len(shape), 1):
        refuse(f"a tensor of shape {shape} has {len(scales)} scales and {len(zeros)} zero points")
    if not all(math.isfinite(scale) and scale >= 0 for scale in scales) or not all(-128 <= x <= 127 for x in zeros):
        refuse("a scale or a zero point is out of its range")


def _operator(operator: Table, codes: list[int], tensors: list[_TensorFacts], known: set[int]) -> str:
    """Check one operator and add what it computes to `known`. Returns its name."""
    code = operator.number(0)
    if code >= len(codes):
        refuse(f"operator code {code} is not there")
    name, needed, options, fields = OPERATORS[codes[code]]
    inputs, outputs = operator.numbers(1), operator.numbers(2)
    extra = MAX_CONCATENATED if name == "CONCATENATION" else EXTRA_INPUTS.get(name, 0)
    if not needed <= len(inputs) <= needed + extra:
        refuse(f"{name} has {len(inputs)} inputs, expected {needed}")
    if not all(index in known or (index == -1 and place >= needed) for place, index in enumerate(inputs)):
        refuse(f"{name} reads a tensor before it is computed")
    if len(outputs) != 1 or not 0 <= outputs[0] < len(tensors):
        refuse(f"{name} has no output that is there")
    if known & set(outputs):
        refuse(f"{name} writes a tensor that has a value")
    known |= set(outputs)
    kind = operator.number(3)
    if kind not in (0, options) or bool(kind) != operator.has(4):
        refuse(f"{name} has options of kind {kind}")
    if kind:
        operator.table(4, fields, f"{name} options")
    elif fields and name != "RESHAPE":  # whose shape may be an input; others' defaults are zeros
        refuse(f"{name} has no options")
    quantized = tensors[outputs[0]].dtype == INT8 and name not in ("QUANTIZE", "DEQUANTIZE")
    return name + "/int8" * quantized
