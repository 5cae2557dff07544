"""The structure check against the schema's own reader and against LiteRT: what it reads, and what it refuses."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_edge import tflite_check
from sam_edge.errors import ArtifactError
from sam_edge.manifest import contract_tensors
from sam_edge.tflite_check import TFLiteStructure, decode_signature, decode_sizes, describe, read_tflite_structure
from tests.small_artifact import SPEC
from tests.small_tflite import read, small_decoder, small_encoder, write

ENCODER, DECODER = small_encoder(), small_decoder([(1, 2), (3, 2)])
OPERATOR_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
TYPE_NAMES = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}


def by_schema(data: bytes) -> tuple[object, ...]:
    """The facts of a file, from the schema's generated classes."""
    model = read(data)

    def tensors(graph: Any, maps: Any, order: Any) -> list[object]:
        names = {entry.tensorIndex: entry.name.decode() for entry in maps}
        found = [graph.tensors[i] for i in order]
        shapes = [() if t.shape is None else tuple(map(int, t.shape)) for t in found]
        return [(names[i], TYPE_NAMES[t.type], s) for i, t, s in zip(order, found, shapes, strict=True)]

    signatures = []
    for definition in model.signatureDefs:
        graph = model.subgraphs[definition.subgraphIndex]
        inputs = tensors(graph, definition.inputs, graph.inputs)
        signatures.append((definition.signatureKey.decode(), inputs, tensors(graph, definition.outputs, graph.outputs)))
    counts: Counter[str] = Counter()
    for graph in model.subgraphs:
        for operator in graph.operators if graph.operators is not None else ():
            code = model.operatorCodes[operator.opcodeIndex]
            name = OPERATOR_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
            quantized = graph.tensors[operator.outputs[0]].type == schema.TensorType.INT8
            counts[name + ("/int8" if quantized and name not in ("QUANTIZE", "DEQUANTIZE") else "")] += 1
    return signatures, counts


def by_us(found: TFLiteStructure) -> tuple[object, ...]:
    def tensors(items: Any) -> list[object]:
        return [(t.name, t.dtype, t.shape) for t in items]

    return [(s.name, tensors(s.inputs), tensors(s.outputs)) for s in found.signatures], found.op_counts


@pytest.mark.parametrize("data", [ENCODER, DECODER, small_decoder()])
def test_it_reads_what_the_schemas_own_classes_read(data: bytes) -> None:
    assert by_us(read_tflite_structure(data, "x.tflite")) == by_schema(data)


@pytest.mark.parametrize("sizes", [[(1, 4)], [(1, 2), (1, 8), (4, 2), (4, 8)]])
def test_graphs_have_the_contracts_tensors_whatever_sizes_the_file_fixes(sizes: list[tuple[int, int]]) -> None:
    graphs = describe({"encoder.tflite": ENCODER, "decoder.tflite": small_decoder(sizes)})
    for name, (inputs, outputs) in contract_tensors(SPEC).items():
        assert (graphs[name].inputs, graphs[name].outputs) == (inputs, outputs)
        assert graphs[name].file == f"{name}.tflite"
    assert graphs["encoder"].op_counts == {"AVERAGE_POOL_2D": 3, "CONV_2D": 3, "TRANSPOSE": 4}
    assert graphs["decoder"].op_counts["RELU"] == len(sizes)


def test_names_of_signatures_hold_their_sizes() -> None:
    assert decode_sizes(decode_signature(16, 8)) == (16, 8)
    for other in ("encode", "decode_0_8", "decode_1_", "decode_1_8_", "decode_1_08", "decode_1_99999", "decode_１_8"):
        assert decode_sizes(other) == (0, 0)


def graph_of(model: Any) -> Any:
    return model.subgraphs[0]


def changed(edit: Callable[[Any], object], base: bytes = ENCODER) -> bytes:
    model = read(base)
    edit(model)
    return write(model)


def custom_operator(model: Any) -> None:
    model.operatorCodes[0].builtinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[0].deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[0].customCode = "FlexConv2D"


def custom_name(model: Any) -> None:
    model.operatorCodes[0].customCode = "FlexConv2D"


def loop(model: Any) -> None:
    model.operatorCodes[0].builtinCode = schema.BuiltinOperator.WHILE


def variable(model: Any) -> None:
    graph_of(model).tensors[0].isVariable = True


def sparse(model: Any) -> None:
    graph_of(model).tensors[0].sparsity = schema.SparsityParametersT()


def buffer_behind_the_file(model: Any) -> None:
    model.buffers[1].data, model.buffers[1].offset, model.buffers[1].size = None, 1 << 20, 16


def buffer_that_is_not_there(model: Any) -> None:
    graph_of(model).tensors[1].buffer = 1000


def half_precision(model: Any) -> None:
    entry = schema.MetadataT()
    entry.name, entry.buffer = "reduced_precision_support", 0
    model.metadata = [entry]


def open_size(model: Any) -> None:
    graph_of(model).tensors[0].shapeSignature = [1, 3, -1, -1]


def huge_tensor(model: Any) -> None:
    graph_of(model).tensors[0].shape = [1 << 20, 1 << 20, 1, 1]


def negative_size(model: Any) -> None:
    graph_of(model).tensors[0].shape = [-1, 3, 64, 64]


def many_dimensions(model: Any) -> None:
    graph_of(model).tensors[0].shape = [1] * 9


def longer_than_its_data(model: Any) -> None:
    constant = next(t for t in graph_of(model).tensors if t.buffer)
    constant.shape = [int(n) * 2 for n in constant.shape]


def text_tensor(model: Any) -> None:
    graph_of(model).tensors[0].type = schema.TensorType.STRING


def wild_input(model: Any) -> None:
    graph_of(model).operators[0].inputs = [9999, 0]


def negative_input(model: Any) -> None:
    graph_of(model).operators[0].inputs = [-2, 0]


def left_out_input(model: Any) -> None:  # LiteRT reads through a null pointer
    graph_of(model).operators[0].inputs = [-1, *graph_of(model).operators[0].inputs[1:]]


def one_input_too_few(model: Any) -> None:
    graph_of(model).operators[0].inputs = graph_of(model).operators[0].inputs[:1]


def two_outputs(model: Any) -> None:
    graph_of(model).operators[-1].outputs = [graph_of(model).operators[-1].outputs[0], len(graph_of(model).tensors) - 1]


def wild_output(model: Any) -> None:
    graph_of(model).operators[-1].outputs = [9999]


def backwards(model: Any) -> None:
    graph_of(model).operators.reverse()


def twice_written(model: Any) -> None:
    graph_of(model).operators.append(graph_of(model).operators[-1])


def written_constant(model: Any) -> None:
    tensors = graph_of(model).tensors
    graph_of(model).operators[0].outputs = [next(i for i, t in enumerate(tensors) if t.buffer)]


def wild_operator_code(model: Any) -> None:
    graph_of(model).operators[0].opcodeIndex = 77


def no_stride(model: Any) -> None:
    pool = next(o for o in graph_of(model).operators if type(o.builtinOptions).__name__ == "Pool2DOptionsT")
    pool.builtinOptions.strideW = 0


def huge_filter(model: Any) -> None:
    pool = next(o for o in graph_of(model).operators if type(o.builtinOptions).__name__ == "Pool2DOptionsT")
    pool.builtinOptions.filterHeight = 1 << 30


def no_options(model: Any) -> None:
    for operator in graph_of(model).operators:
        operator.builtinOptionsType, operator.builtinOptions = 0, None


def options_of_another(model: Any) -> None:
    pool = next(o for o in graph_of(model).operators if type(o.builtinOptions).__name__ == "Pool2DOptionsT")
    pool.builtinOptionsType, pool.builtinOptions = schema.BuiltinOptions.SoftmaxOptions, schema.SoftmaxOptionsT()


def custom_options(model: Any) -> None:
    graph_of(model).operators[0].customOptions = np.zeros(4, np.uint8)


def int8_without_scale(model: Any) -> None:
    graph_of(model).tensors[0].type = schema.TensorType.INT8


def scales_of_no_channel(model: Any) -> None:
    quantization = schema.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint, quantization.quantizedDimension = [1.0] * 5, [0] * 5, 1
    graph_of(model).tensors[0].quantization = quantization


def nan_scale(model: Any) -> None:
    quantization = schema.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint = [float("nan")], [0]
    graph_of(model).tensors[0].quantization = quantization


def no_signature(model: Any) -> None:
    model.signatureDefs = []


def signature_of_no_graph(model: Any) -> None:
    model.signatureDefs[0].subgraphIndex = 3


def signature_of_no_tensor(model: Any) -> None:
    model.signatureDefs[0].inputs[0].tensorIndex = 9999
    graph_of(model).inputs = [9999]


def same_name_twice(model: Any) -> None:
    model.signatureDefs[0].outputs[1].name = model.signatureDefs[0].outputs[0].name


def old_schema(model: Any) -> None:
    model.version = 2


MALICIOUS: dict[Callable[[Any], None], str] = {
    edit: reason
    for reason, edits in {
        "operator 32 is not allowed|field 1 of OperatorCode": [custom_operator, custom_name],
        "operator 119 is not allowed": [loop],
        "field 5 of Tensor": [variable],
        "field 6 of Tensor": [sparse],
        "field 7 of Tensor": [open_size],
        "field 1 of Buffer": [buffer_behind_the_file],
        "buffer 1000 is not there": [buffer_that_is_not_there],
        "metadata 'reduced_precision_support'": [half_precision],
        "past the bounds": [huge_tensor, negative_size, many_dimensions],
        "does not hold the data": [longer_than_its_data],
        "tensor type 5": [text_tensor],
        "before it is computed": [wild_input, negative_input, left_out_input, backwards],
        "TRANSPOSE has 1 inputs, expected 2": [one_input_too_few],
        "no output that is there": [wild_output, two_outputs],
        "writes a tensor that has a value": [twice_written, written_constant],
        "operator code 77 is not there": [wild_operator_code],
        "field 1 of AVERAGE_POOL_2D options is missing": [no_stride],
        "field 4 of AVERAGE_POOL_2D options is 1073741824, expected 1 to 4096": [huge_filter],
        "AVERAGE_POOL_2D has no options": [no_options],
        "AVERAGE_POOL_2D has options of kind 9": [options_of_another],
        "field 5 of Operator": [custom_options],
        "has no scale": [int8_without_scale],
        "5 scales and 5 zero points": [scales_of_no_channel],
        "out of its range": [nan_scale],
        "1 subgraphs and 0 signatures": [no_signature],
        "expected one for each": [signature_of_no_graph],
        "names a tensor that is not there": [signature_of_no_tensor],
        "names 3 of 3 tensors": [same_name_twice],
        "schema has version 2": [old_schema],
    }.items()
    for edit in edits
}


@pytest.mark.parametrize("edit", MALICIOUS, ids=lambda edit: edit.__name__)
def test_what_a_model_file_may_not_do_is_refused(edit: Callable[[Any], None]) -> None:
    data = changed(edit)
    with pytest.raises(ArtifactError, match=rf"evil.tflite is refused before it runs: .*({MALICIOUS[edit]})") as caught:
        read_tflite_structure(data, "evil.tflite")
    assert "\n" not in str(caught.value)


def renamed(name: str) -> bytes:
    def edit(model: Any) -> None:
        model.signatureDefs[0].signatureKey = name

    return changed(edit, small_decoder())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("model.tflite", ENCODER, "model.tflite is no file of a TFLite model"),
        ("encoder.onnx", ENCODER, "expected encoder.tflite and decoder.tflite"),
        ("encoder.tflite", DECODER, "has the signatures decode_1_2, decode_3_2, expected encode"),
        ("decoder.tflite", ENCODER, "has the signatures encode, expected decode_1_8"),
        ("decoder.tflite", renamed("decode_2_4"), r"point_coords of decode_2_4 has shape \(1, 4, 2\)"),
        ("decoder.tflite", renamed("decode_one"), "has the signatures decode_one"),
        ("decoder.tflite", small_decoder([(1, 2), (2, 4)]), "expected decode_1_8 and the like for all its sizes"),
    ],
)
def test_files_that_do_not_hold_what_their_name_says_are_refused(name: str, data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        describe({name: data})


def test_signatures_with_different_tensors_are_refused() -> None:
    def edit(model: Any) -> None:
        model.signatureDefs[1].outputs[0].name = "other"

    with pytest.raises(ArtifactError, match="other tensors than each other"):
        describe({"decoder.tflite": changed(edit, DECODER)})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"TFL3",
        b"\x00" * 8,
        b"\xff" * 64,
        b"\x1c\x00\x00\x00TFL3",
        struct.pack("<I4s", 8, b"TFL3") + b"\xff\xff\xff\x7f" * 8,
        struct.pack("<I4sI", 8, b"TFL3", 0) + bytes(64),
        ENCODER[:4] + b"TFL2" + ENCODER[8:],
        ENCODER[: len(ENCODER) // 2],
    ],
)
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"x\.tflite is refused before it runs"):
        read_tflite_structure(data, "x.tflite")


def test_every_cut_is_refused() -> None:
    for end in range(len(ENCODER) - 4):  # the last bytes may be padding
        with pytest.raises(ArtifactError):
            read_tflite_structure(ENCODER[:end], "x.tflite")


def test_a_file_of_countless_parts_is_refused_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflite_check, "MAX_ITEMS", 100)
    with pytest.raises(ArtifactError, match="more than 100 parts"):
        read_tflite_structure(ENCODER, "x.tflite")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_models_are_refused_or_read_as_the_schemas_classes_read_them(data: st.DataObject) -> None:
    model = bytearray(data.draw(st.sampled_from([ENCODER, DECODER])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(model) - 5))
        match data.draw(st.sampled_from(["flip", "set", "word", "cut"])):
            case "flip":
                model[at] ^= 1 << data.draw(st.integers(0, 7))
            case "set":
                model[at] = data.draw(st.integers(0, 255))
            case "word":
                model[at : at + 4] = struct.pack("<I", data.draw(st.integers(0, 2**32 - 1)))
            case "cut":
                del model[at : at + data.draw(st.integers(1, 4))]
    try:
        found = read_tflite_structure(bytes(model), "x.tflite")
    except ArtifactError:
        return
    assert by_us(found) == by_schema(bytes(model))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        read_tflite_structure(struct.pack("<I", 8) + b"TFL3" + data, "x.tflite")
