"""The structure check against Core ML's own protobuf messages: what it reads, and what it refuses."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_edge.coreml_check import MANIFEST_PATH, MODEL_PATH, WEIGHTS_PATH, describe, package_manifest, read_package
from sam_edge.errors import ArtifactError
from sam_edge.manifest import contract_tensors
from tests.small_artifact import SPEC
from tests.small_coreml import ENCODER, changed, small_coreml_files

DECODER = f"decoder.mlpackage/{MODEL_PATH}"
WEIGHTS = f"encoder.mlpackage/{WEIGHTS_PATH}"
MANIFEST = f"encoder.mlpackage/{MANIFEST_PATH}"


def block(spec: Any) -> Any:
    return spec.mlProgram.functions["main"].block_specializations["CoreML7"]


def first(spec: Any, kind: str) -> Any:
    return next(op for op in block(spec).operations if op.type == kind)


def weights(spec: Any) -> list[Any]:
    """The constants that lie in weight.bin."""
    values = [op.attributes["val"] for op in block(spec).operations if op.type == "const"]
    return [value for value in values if value.HasField("blobFileValue")]


def weight(spec: Any) -> Any:
    return weights(spec)[0]


def test_it_reads_what_coremltools_reads() -> None:
    from coremltools.proto import Model_pb2

    for name, graph in describe(small_coreml_files()).items():
        spec = Model_pb2.Model()
        spec.ParseFromString(small_coreml_files()[graph.file])
        assert graph.op_counts == dict(sorted(Counter(op.type for op in block(spec).operations).items()))
        assert [tensor.name for tensor in graph.inputs] == [feature.name for feature in spec.description.input]
        assert [tensor.name for tensor in graph.outputs] == [feature.name for feature in spec.description.output]
        assert graph.file == f"{name}.mlpackage/{MODEL_PATH}"


def test_graphs_have_the_contracts_tensors_with_names_for_what_a_caller_chooses() -> None:
    graphs = describe(small_coreml_files())
    assert {name: (graph.inputs, graph.outputs) for name, graph in graphs.items()} == contract_tensors(SPEC)
    assert read_package(small_coreml_files(), "decoder.mlpackage").largest == {"prompts": 64, "points": 16}


def test_constants_are_the_bytes_of_the_weight_file() -> None:
    program = read_package(small_coreml_files(), "encoder.mlpackage")
    values = [op.attributes["val"] for op in program.operations if op.type == "const"]
    found = [value for value in values if value.type.shape == (4, 3, 1, 1)]
    assert len(found) == 1 and isinstance(found[0].data, memoryview) and len(found[0].data) == 48
    from tests.small_coreml import encoder

    assert bytes(found[0].data) == encoder().wide.weight.detach().numpy().tobytes()


def other_kind(spec: Any) -> None:
    spec.neuralNetwork.layers.add().name = "layer"


def pipeline(spec: Any) -> None:
    spec.pipeline.models.add()


def custom_operator(spec: Any) -> None:
    first(spec, "conv").type = "custom_layer"


def inner_block(spec: Any) -> None:
    first(spec, "conv").blocks.add()


def second_function(spec: Any) -> None:
    spec.mlProgram.functions["other"].CopyFrom(spec.mlProgram.functions["main"])


def second_specialization(spec: Any) -> None:
    spec.mlProgram.functions["main"].block_specializations["CoreML8"].CopyFrom(block(spec))


def twice(spec: Any) -> None:
    block(spec).operations.add().CopyFrom(first(spec, "conv"))


def too_early(spec: Any) -> None:
    first(spec, "conv").inputs["x"].arguments[0].name = "nowhere"


def both_name_and_value(spec: Any) -> None:
    first(spec, "conv").inputs["bias"].arguments.add()


def other_output(spec: Any) -> None:
    block(spec).outputs[0] = "nowhere"


def half_output(spec: Any) -> None:
    name = block(spec).outputs[0]
    for op in block(spec).operations:
        for output in op.outputs:
            if output.name == name:
                output.type.tensorType.dataType = 10


def other_input(spec: Any) -> None:
    spec.description.input[0].type.multiArrayType.shape[3] = 32


def image_input(spec: Any) -> None:
    spec.description.input[0].type.imageType.width = 64


def half_input(spec: Any) -> None:
    spec.description.input[0].type.multiArrayType.dataType = 65552


def stateful(spec: Any) -> None:
    spec.description.state.add().name = "memory"


def weight_elsewhere(spec: Any) -> None:
    weight(spec).blobFileValue.fileName = "@model_path/../weights/weight.bin"


def weight_outside(spec: Any) -> None:
    weight(spec).blobFileValue.offset = 1 << 40


def weight_of_the_other_convolution(spec: Any) -> None:
    other = weights(spec)[1]
    weight(spec).blobFileValue.offset = other.blobFileValue.offset


def weight_unaligned(spec: Any) -> None:
    weight(spec).blobFileValue.offset += 1


def weight_of_another_type(spec: Any) -> None:
    weight(spec).type.tensorType.dataType = 23


def weight_of_another_size(spec: Any) -> None:
    weight(spec).type.tensorType.dimensions[0].constant.size = 8


def huge(spec: Any) -> None:
    for _ in range(3):
        first(spec, "conv").outputs[0].type.tensorType.dimensions[0].constant.size = 1 << 40


def list_result(spec: Any) -> None:
    first(spec, "conv").outputs[0].type.listType.type.tensorType.dataType = 11


def rank_that_is_not_its_sizes(spec: Any) -> None:
    first(spec, "conv").outputs[0].type.tensorType.rank = 7


def short_constant(spec: Any) -> None:
    for op in block(spec).operations:
        if op.type == "const" and op.attributes["val"].immediateValue.tensor.ints.values:
            del op.attributes["val"].immediateValue.tensor.ints.values[0]
            return


def constant_of_another_type(spec: Any) -> None:
    first(spec, "const").outputs[0].type.tensorType.dataType = 10


def no_program(spec: Any) -> None:
    spec.ClearField("mlProgram")


def newer(spec: Any) -> None:
    spec.specificationVersion = 9


def updatable(spec: Any) -> None:
    spec.isUpdatable = True


REFUSED: dict[Callable[[Any], None], str] = {
    other_kind: r"field 500 .* of Model is not allowed",
    pipeline: "field 202",
    custom_operator: "operator 'custom_layer' is not allowed",
    inner_block: "field 4 .* of Operation is not allowed",
    second_function: "it has the functions .* expected main",
    second_specialization: "expected CoreML7",
    twice: "has no type, or is computed twice",
    too_early: "'nowhere' is used before it is computed",
    both_name_and_value: "an argument is no name and no value",
    other_output: "outputs are not results of its operators",
    half_output: "outputs of its description are not those of its program, in float32",
    other_input: "inputs of its description are not those of its program",
    image_input: "field 4 .* of FeatureType is not allowed",
    half_input: "is no float32 array",
    stateful: "field 13 .* of ModelDescription is not allowed",
    weight_elsewhere: r"a weight lies in '@model_path/\.\./weights",
    weight_outside: "is not inside the file",
    weight_of_the_other_convolution: r"type float32 and shape \(., 3, ., .\) has (48|96) bytes",
    weight_unaligned: "is not inside the file",
    weight_of_another_type: "there is no weight of type int32|is of another type than it says",
    weight_of_another_size: "has 48 bytes",
    huge: "past the bounds",
    list_result: "field 2 .* of ValueType is not allowed",
    rank_that_is_not_its_sizes: "has rank 7, but 4 sizes",
    short_constant: "does not hold the data for it",
    constant_of_another_type: "of another type than it says",
    no_program: "no ML Program",
    newer: r"specification version 8 \(got 9\)",
    updatable: "field 10",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_what_a_model_file_may_not_do_is_refused(change: Callable[[Any], None]) -> None:
    with pytest.raises(ArtifactError, match=REFUSED[change]) as caught:
        describe(changed(change))
    assert "encoder.mlpackage is refused before it runs" in str(caught.value) and "\n" not in str(caught.value)


def sizes(spec: Any, feature: int, axis: int) -> Any:
    return spec.description.input[feature].type.multiArrayType.shapeRange.sizeRanges[axis]


@pytest.mark.parametrize(
    ("feature", "axis", "low", "high", "message"),
    [
        (3, 0, 1, 63, "do not agree how many prompts"),
        (4, 1, 1, 17, "do not agree how many points"),
        (3, 2, 1, 2, "axis 2 .* has a flexible size"),
        (3, 0, 2, 64, "goes from 2 to 64"),
        (3, 0, 1, 1 << 30, "a flexible size goes from 1"),
    ],
)
def test_flexible_sizes_must_be_the_contracts(feature: int, axis: int, low: int, high: int, message: str) -> None:
    def change(spec: Any) -> None:
        sizes(spec, feature, axis).lowerBound, sizes(spec, feature, axis).upperBound = low, high

    with pytest.raises(ArtifactError, match=message):
        describe(changed(change, DECODER))


def manifest_with(**changes: Any) -> bytes:
    content = json.loads(package_manifest())
    for entry in content["itemInfoEntries"].values():
        entry.update(changes)
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        (MANIFEST, b"{", "does not list a model"),
        (MANIFEST, b"[]", "does not list a model"),
        (MANIFEST, b'{"itemInfoEntries": {}, "rootModelIdentifier": []}', "does not list a model"),
        (MANIFEST, manifest_with(path="../../elsewhere"), "names"),
        (MANIFEST, b" " * (1 << 17), "has 131072 bytes"),
        (WEIGHTS, b"", "no weight file"),
        (WEIGHTS, struct.pack("<II56x", 1, 1), "no weight file of version 2"),
        (WEIGHTS, struct.pack("<II56x", 1, 2), "is not inside the file"),
        ("encoder.mlpackage/Data/more.bin", b"", "has the files Data/com.apple.CoreML/model.mlmodel.* expected"),
        ("encoder.onnx", b"", "encoder.onnx is no part of a Core ML model"),
    ],
)
def test_a_package_has_three_files_that_fit_each_other(path: str, data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        describe(small_coreml_files() | {path: data})


def test_a_missing_file_is_named() -> None:
    files = {name: data for name, data in small_coreml_files().items() if name != WEIGHTS}
    with pytest.raises(ArtifactError, match=r"encoder\.mlpackage has the files .* expected .*weight\.bin"):
        describe(files)


def test_overlapping_and_outside_weight_data_are_refused() -> None:
    weights = bytearray(small_coreml_files()[WEIGHTS])
    struct.pack_into("<Q", weights, 64 + 16, len(weights))  # where the first weight's data are said to start
    with pytest.raises(ArtifactError, match="data are not inside the file"):
        describe(small_coreml_files() | {WEIGHTS: bytes(weights)})


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_files_are_refused_or_read_but_nothing_else_happens(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([ENCODER, DECODER, WEIGHTS, MANIFEST]))
    content = bytearray(small_coreml_files()[path])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    try:
        graphs = describe(small_coreml_files() | {path: bytes(content)})
    except ArtifactError as error:
        assert "\n" not in str(error)
    else:
        assert graphs.keys() == {"encoder", "decoder"}


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes_are_no_model(content: bytes) -> None:
    with pytest.raises(ArtifactError):
        describe(small_coreml_files() | {ENCODER: content})
