"""The structure check against the real onnx library: what it reads, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_edge import onnx_check
from sam_edge.errors import ArtifactError
from sam_edge.onnx_check import OnnxStructure, read_onnx_structure
from tests.small_artifact import DECODER, ENCODER, small_graph

ENCODER_BYTES, DECODER_BYTES = small_graph(ENCODER), small_graph(DECODER)


def structure_by_onnx(model: onnx.ModelProto) -> tuple[object, ...]:
    """The same facts, from protobuf's own parser."""

    def tensors(infos: object) -> list[tuple[str, tuple[int | str, ...]]]:
        return [
            (info.name, tuple(getattr(d, d.WhichOneof("value") or "", "?") for d in info.type.tensor_type.shape.dim))
            for info in infos  # type: ignore[attr-defined]
        ]

    def count(graph: onnx.GraphProto) -> Counter[str]:
        counts: Counter[str] = Counter()
        for node in graph.node:
            counts[node.op_type] += 1
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    counts += count(inner)
        return counts

    return model.ir_version, tensors(model.graph.input), tensors(model.graph.output), count(model.graph)


def structure_by_us(found: OnnxStructure) -> tuple[object, ...]:
    def tensors(items: list[onnx_check.Tensor]) -> list[tuple[str, tuple[int | str, ...]]]:
        return [(item.name, item.shape) for item in items]

    return found.ir_version, tensors(found.inputs), tensors(found.outputs), found.op_counts


def with_branch(model: onnx.ModelProto) -> onnx.GraphProto:
    """Add an If whose branches are graphs of their own; returns one of them."""
    branch = onnx.parser.parse_graph("branch () => (float[1] out) <float[1] one = {1.0}> { out = Identity (one) }")
    condition = onnx.numpy_helper.from_array(np.array(True), "condition")
    model.graph.initializer.append(condition)
    node = onnx.helper.make_node("If", ["condition"], ["unused"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    return model.graph.node[-1].attribute[0].g


@pytest.mark.parametrize("data", [ENCODER_BYTES, DECODER_BYTES, small_graph(ENCODER, with_branch)])
def test_it_reads_what_the_onnx_library_reads(data: bytes) -> None:
    assert structure_by_us(read_onnx_structure(data, "x.onnx")) == structure_by_onnx(onnx.load_from_string(data))


def test_data_types_and_element_counts_are_read() -> None:
    def mixed(model: onnx.ModelProto) -> None:
        model.graph.input.append(onnx.helper.make_tensor_value_info("extra", onnx.TensorProto.INT64, ["n", 3]))
        for dtype in (np.float16, np.int64, np.bool_, np.uint8, np.float64):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((2, 5), dtype), str(dtype)))

    plain, found = (read_onnx_structure(small_graph(ENCODER, change), "x.onnx") for change in (None, mixed))
    assert (found.inputs[-1].dtype, found.inputs[-1].shape) == ("int64", ("n", 3))
    assert found.initializer_elements == plain.initializer_elements + 50


@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.DOUBLE])
def test_numbers_may_be_stored_in_typed_fields(dtype: int) -> None:
    def typed(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(onnx.helper.make_tensor("typed", dtype, (3,), [1, 300, 5_000_000]))

    assert read_onnx_structure(small_graph(ENCODER, typed), "x.onnx").initializer_elements == 12 + 6 + 3


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"


def external_without_a_flag(model: onnx.ModelProto) -> None:
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "*/_ORT_MEM_ADDR_/*"


def flagged_external(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


def external_in_a_branch(model: onnx.ModelProto) -> None:
    with_branch(model).initializer[0].data_location = onnx.TensorProto.EXTERNAL


def external_in_an_attribute(model: onnx.ModelProto) -> None:
    value = onnx.numpy_helper.from_array(np.zeros(3, np.float32))
    value.data_location = onnx.TensorProto.EXTERNAL
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value=value))


def function(model: onnx.ModelProto) -> None:
    body = [onnx.helper.make_node("Identity", ["a"], ["b"])]
    opsets = [onnx.helper.make_opsetid("", 20)]
    model.functions.append(onnx.helper.make_function("local", "f", ["a"], ["b"], body, opsets))


def foreign_import(model: onnx.ModelProto) -> None:
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))


def foreign_node(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "custom.ops"


def foreign_node_in_a_branch(model: onnx.ModelProto) -> None:
    with_branch(model).node[0].domain = "custom.ops"


def sparse(model: onnx.ModelProto) -> None:
    values = onnx.numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    indices = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [1 << 40]))


def sparse_attribute(model: onnx.ModelProto) -> None:
    sparse(model)
    moved = model.graph.sparse_initializer.pop()
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], sparse_value=moved))


def huge_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [1 << 40, 1 << 40]


def more_elements_than_data(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [1 << 20]


def negative_dimension(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [-1, 3]


def huge_rank(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [1] * 5000


def huge_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 40


def string_tensor(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(onnx.helper.make_tensor("text", onnx.TensorProto.STRING, (1,), [b"x"]))


def sequence_input(model: onnx.ModelProto) -> None:
    kind = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [1])
    model.graph.input.append(onnx.helper.make_value_info("s", onnx.helper.make_sequence_type_proto(kind)))


def training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def nested_graphs(model: onnx.ModelProto) -> None:
    graph = model.graph
    for _ in range(40):
        node = graph.node.add()
        node.op_type = "If"
        attribute = node.attribute.add()
        attribute.name, attribute.type = "then_branch", onnx.AttributeProto.GRAPH
        graph = attribute.g


def old_ir(model: onnx.ModelProto) -> None:
    model.ir_version = 3


def future_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 1 << 40


MALICIOUS = {
    change: reason
    for reason, changes in {
        "lie outside the file|field 13": [
            external,
            external_without_a_flag,
            flagged_external,
            external_in_a_branch,
            external_in_an_attribute,
        ],
        "field 25": [function],
        "operator domain": [foreign_import, foreign_node, foreign_node_in_a_branch],
        "field 15|field 22": [sparse, sparse_attribute],
        "past the bounds": [huge_initializer, negative_dimension, huge_rank, huge_input],
        "does not hold the data": [more_elements_than_data],
        "tensor type|field 6": [string_tensor],
        "field 4": [sequence_input],
        "field 20": [training],
        "nested deeper": [nested_graphs],
        "IR version 3 ": [old_ir],
        "opset 1099511627776 ": [future_opset],
    }.items()
    for change in changes
}


@pytest.mark.parametrize("change", MALICIOUS, ids=lambda change: change.__name__)
def test_what_a_model_file_may_not_do_is_refused(change: Callable[[onnx.ModelProto], None]) -> None:
    data = small_graph(ENCODER, change)
    with pytest.raises(ArtifactError, match=rf"evil.onnx is refused before it runs: .*({MALICIOUS[change]})") as caught:
        read_onnx_structure(data, "evil.onnx")
    assert "\n" not in str(caught.value)


def test_a_graph_given_twice_is_refused_since_protobuf_would_merge_the_two() -> None:
    evil = onnx.ModelProto()
    foreign_node(evil.MergeFrom(onnx.load_from_string(ENCODER_BYTES)) or evil)
    with pytest.raises(ArtifactError):
        read_onnx_structure(ENCODER_BYTES + evil.SerializeToString(), "x.onnx")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\xff" * 50,  # an endless varint
        b"PK\x03\x04",
        b"\x3a\xff\xff\xff\xff\x0f",  # a graph of 4 GiB that is not there
        b"\x0b\x0c" * 1000,  # groups
        bytes(1 << 16),
        ENCODER_BYTES[: len(ENCODER_BYTES) // 2],
        ENCODER_BYTES + b"\x00\x00\x00\x00ORTM",
    ],
)
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        read_onnx_structure(data, "x.onnx")


def test_a_file_of_countless_small_fields_is_refused_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_check, "MAX_FIELDS", 1000)
    nodes = b"\x0a\x00" * 2000
    with pytest.raises(ArtifactError, match="more than 1000 fields"):
        read_onnx_structure(b"\x08\x0a\x3a" + bytes([0xA0, 0x1F]) + nodes, "x.onnx")


def check_against_onnx(data: bytes) -> None:
    """Refused, or read exactly as protobuf reads it; never anything else."""
    try:
        found = read_onnx_structure(data, "x.onnx")
    except ArtifactError:
        return
    try:
        model = onnx.load_from_string(data)
    except DecodeError:
        return  # stricter than we are: the runtime refuses it too
    assert structure_by_us(found) == structure_by_onnx(model)
    assert not model.functions and not model.graph.sparse_initializer
    assert not any(tensor.external_data or tensor.data_location for tensor in model.graph.initializer)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_models_are_refused_or_read_as_the_onnx_library_reads_them(data: st.DataObject) -> None:
    model = bytearray(data.draw(st.sampled_from([ENCODER_BYTES, DECODER_BYTES])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(model) - 1))
        match data.draw(st.sampled_from(["flip", "set", "cut", "insert", "repeat"])):
            case "flip":
                model[at] ^= 1 << data.draw(st.integers(0, 7))
            case "set":
                model[at] = data.draw(st.integers(0, 255))
            case "cut":
                del model[at : at + data.draw(st.integers(1, 30))]
                model = model or bytearray(b"\x08")
            case "insert":
                model[at:at] = data.draw(st.binary(min_size=1, max_size=12))
            case "repeat":
                model[at:at] = model[at : at + data.draw(st.integers(1, 60))]
    check_against_onnx(bytes(model))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_or_read_as_the_onnx_library_reads_them(data: bytes) -> None:
    check_against_onnx(data)
