"""The structure check against OpenVINO and the standard library's XML parser: what it reads, and what it refuses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_edge import openvino_check
from sam_edge.errors import ArtifactError
from sam_edge.manifest import contract_tensors
from sam_edge.openvino_check import OpenvinoStructure, describe, read_openvino_structure
from sam_edge.runtimes.with_openvino import openvino_core
from tests.small_artifact import SPEC
from tests.small_openvino import small_openvino_files

FILES = small_openvino_files()
ENCODER, DECODER = FILES["encoder.xml"].decode(), FILES["decoder.xml"].decode()
WEIGHTS_SIZE = len(FILES["decoder.bin"])


def read(text: str, weights_size: int = WEIGHTS_SIZE) -> OpenvinoStructure:
    return read_openvino_structure(text.encode(), weights_size, "evil.xml")


def test_it_reads_what_openvino_reads() -> None:
    core = openvino_core()
    for name, graph in describe(FILES).items():
        model = core.read_model(FILES[f"{name}.xml"], FILES[f"{name}.bin"])
        for tensors, nodes in ((graph.inputs, model.inputs), (graph.outputs, model.outputs)):
            assert [tensor.name for tensor in tensors] == [node.get_any_name() for node in nodes]
            free = {"prompts": -1, "points": -1}
            assert [[free.get(str(n), n) for n in tensor.shape] for tensor in tensors] == [
                [n.get_length() if n.is_static else -1 for n in node.get_partial_shape()] for node in nodes
            ]
        assert sum(graph.op_counts.values()) == len(model.get_ordered_ops())
        assert graph.op_counts["Parameter"] == len(graph.inputs)


def test_graphs_have_the_contracts_tensors_with_names_for_what_a_caller_chooses() -> None:
    graphs = describe(FILES)
    assert {name: (graph.inputs, graph.outputs) for name, graph in graphs.items()} == contract_tensors(SPEC)
    assert [graph.file for graph in graphs.values()] == ["encoder.xml", "decoder.xml"]
    assert graphs["encoder"].op_counts == {"AvgPool": 3, "Const": 2, "Convolution": 3, "Parameter": 1, "Result": 3}


def test_the_bytes_of_all_constants_are_counted() -> None:
    found = read_openvino_structure(FILES["encoder.xml"], len(FILES["encoder.bin"]), "encoder.xml")
    assert found.weight_bytes == len(FILES["encoder.bin"]) == 4 * (12 + 6)


def changed(old: str, new: str, count: int = 1, text: str = DECODER) -> str:
    assert old in text  # otherwise nothing would be tested
    return text.replace(old, new, count)


def layer(text: str, kind: str) -> str:
    """The first layer of a type, as text."""
    found = re.search(rf"<layer [^>]*type=\"{kind}\".*?</layer>", text)
    assert found is not None
    return found[0]


CONSTANT, RESULT, PARAMETER = layer(DECODER, "Const"), layer(DECODER, "Result"), layer(DECODER, "Parameter")
OFFSET_AND_SIZE = re.search(r'offset="(\d+)" size="(\d+)"', CONSTANT)
assert OFFSET_AND_SIZE is not None
EDGE = DECODER[DECODER.index("<edge ") : DECODER.index("/>", DECODER.index("<edge ")) + 2]
HEADER = '<?xml version="1.0"?>'


def in_constant(old: str, new: str) -> str:
    return changed(CONSTANT, changed(old, new, text=CONSTANT))


REFUSED = {
    "a document type": (changed("<net ", '<!DOCTYPE net [<!ENTITY a "b">]><net '), "is not what OpenVINO writes"),
    "a reference to an entity": (changed('name="decoder"', 'name="&a;"'), "is not what OpenVINO writes"),
    "a character reference": (changed("<dim>2</dim>", "<dim>&#50;</dim>"), "is not what OpenVINO writes"),
    "a comment": (changed("<layers>", "<layers><!-- -->"), "is not what OpenVINO writes"),
    "data as text": (changed("<dim>2</dim>", "<dim><![CDATA[2]]></dim>"), "is not what OpenVINO writes"),
    "an instruction": (changed("<layers>", "<?php ?><layers>"), "is not what OpenVINO writes"),
    "text": (changed("<layers>", "text<layers>"), "is not what OpenVINO writes"),
    "single quotes": (changed('type="Const"', "type='Const'"), "is not what OpenVINO writes"),
    "a namespace": (changed("<layers>", "<a:layers>"), "is not what OpenVINO writes"),
    "another encoding": (changed(HEADER, '<?xml version="1.0" encoding="UTF-16"?>'), "does not start with"),
    "no header": (changed(HEADER, ""), "does not start with"),
    "letters past ASCII": (changed('name="decoder"', 'name="décoder"'), "characters other than ASCII"),
    "two models": (DECODER + DECODER.removeprefix(HEADER), "<net> is there twice|more than one model"),
    "a cut": (DECODER[: DECODER.index("</layers>")], "cut off"),
    "a closing tag too many": (DECODER + "</net>", "closes nothing"),
    "crossed tags": (changed("</layers>", "</layer>"), "closes nothing"),
    "two groups of layers": (changed("<edges>", "<layers></layers><edges>"), "<layers> is there twice"),
    "runtime information": (changed("<edges>", "<rt_info></rt_info><edges>"), "is not what OpenVINO writes"),
    "a subgraph": (changed("</layer>", "<body></body></layer>"), "<body> is not allowed in <layer>"),
    "blobs of an older format": (changed("</layer>", "<blobs></blobs></layer>"), "<blobs> is not allowed"),
    "an attribute twice": (changed('type="Const"', 'type="Const" type="Add"'), "attribute of a layer is there twice"),
    "an unknown attribute": (changed('type="Const"', 'type="Const" library="a.so"'), "attribute library of a layer"),
    "a layer without a type": (changed(' type="Const"', ""), "attribute type of a layer is missing"),
    "another IR": (changed('version="11"', 'version="10"'), "IR version '10' is not allowed"),
    "an extension": (changed('type="Const" version="opset1"', 'type="Const" version="extension"'), "operator set"),
    "a future operator set": (changed('version="opset1"', 'version="opset99"'), "operator set 'opset99'"),
    "a type that is no name": (changed('type="Const"', 'type="../a"'), "layer type '../a' is not allowed"),
    "a state": (changed('type="Const"', 'type="ReadValue"'), "layer type 'ReadValue' is not allowed"),
    "a layer twice": (changed('<layer id="1"', '<layer id="0"'), "layer 0 is there twice"),
    "a layer without a number": (changed('<layer id="1"', '<layer id="-1"'), "id of a layer is '-1'"),
    "a constant past the weights": (
        in_constant(f'offset="{OFFSET_AND_SIZE[1]}"', f'offset="{WEIGHTS_SIZE}"'),
        "lies outside the",
    ),
    "an offset past 64 bits": (in_constant(f'offset="{OFFSET_AND_SIZE[1]}"', f'offset="{1 << 64}"'), "offset is"),
    "an offset before the weights": (in_constant(f'offset="{OFFSET_AND_SIZE[1]}"', 'offset="-8"'), "offset is '-8'"),
    "a constant with less data": (in_constant(f'size="{OFFSET_AND_SIZE[2]}"', 'size="1"'), "has 1 bytes, expected"),
    "a constant without data": (in_constant(f'size="{OFFSET_AND_SIZE[2]}"', ""), "is not what OpenVINO writes|size is"),
    "a huge constant": (re.sub(r'shape="[0-9, ]*" offset', f'shape="{1 << 40}, {1 << 40}" offset', DECODER), "bounds"),
    "a constant of free size": (re.sub(r'shape="[0-9, ]*" offset', 'shape="?" offset', DECODER), "no fixed shape"),
    "texts as data": (in_constant('element_type="i64"', 'element_type="string"'), "element type 'string'"),
    "a parameter of two shapes": (changed('shape="1,4,4,4"', 'shape="1,4,4,5"'), "has two shapes"),
    "a parameter of a range": (changed('shape="?,?,2"', 'shape="1..8,?,2"'), "a size is '1..8'"),
    "a parameter in integers": (changed('element_type="f32"', 'element_type="i64"'), "neither float32 nor uint8"),
    "a parameter of huge rank": (changed('shape="?,?,2"', f'shape="{"1," * 99}2"'), "more than 8 sizes"),
    "a port of huge rank": (changed("<dim>4</dim>", "<dim>1</dim>" * 99), "more than 8 sizes"),
    "a result in half precision": (
        changed(RESULT, changed('precision="FP32"', 'precision="FP16"', text=RESULT)),
        "'low_res_masks' is 'FP16'",
    ),
    "a result with two names": (
        changed(RESULT, changed('output_names="low_res_masks"', 'output_names="other"', text=RESULT)),
        "has the names 'other' and 'low_res_masks'",
    ),
    "an edge from nowhere": (changed(EDGE, EDGE.replace('from-layer="', 'from-layer="99')), "no such layers or ports"),
    "an edge to no port": (changed(EDGE, EDGE.replace('to-port="', 'to-port="9')), "no such layers or ports"),
    "an edge twice": (changed(EDGE, EDGE + EDGE), "comes from two places"),
    "an edge left out": (changed(EDGE, ""), "comes from nowhere"),
    "no layers": (HEADER + '<net name="a" version="11"></net>', "no layers or no edges"),
    "no inputs": (
        HEADER + '<net name="a" version="11"><layers></layers><edges></edges></net>',
        "no model with inputs and outputs",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_model_file_may_not_have_is_refused(what: str) -> None:
    text, reason = REFUSED[what]
    with pytest.raises(ArtifactError, match=rf"evil\.xml is refused before it runs: .*({reason})") as caught:
        read(text)
    assert "\n" not in str(caught.value)


def test_a_cycle_is_refused() -> None:
    numbers = {name: int(value) for name, value in re.findall(r'([a-z-]+)="(\d+)"', EDGE)}
    last = max(int(number) for number in re.findall(r'<layer id="(\d+)"[^>]*type="Add"', DECODER))
    back = EDGE.replace(f'from-layer="{numbers["from-layer"]}"', f'from-layer="{last}"')
    back = back.replace(f'from-port="{numbers["from-port"]}"', 'from-port="2"')
    with pytest.raises(ArtifactError, match=f"an edge leads back from layer {last} to layer {numbers['to-layer']}"):
        read(changed(EDGE, back))


@pytest.mark.parametrize(("bound", "value", "message"), [("MAX_XML_BYTES", 1000, "bytes"), ("MAX_ELEMENTS", 50, "50")])
def test_a_file_past_the_bounds_is_refused(
    monkeypatch: pytest.MonkeyPatch, bound: str, value: int, message: str
) -> None:
    monkeypatch.setattr(openvino_check, bound, value)
    with pytest.raises(ArtifactError, match=f"more than {message} elements|expected at most {value}"):
        read(DECODER)


def test_a_long_name_is_cut_in_the_message() -> None:
    with pytest.raises(ArtifactError) as caught:
        read(changed('type="Const"', f'type="{"a" * 100_000}"'))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("names", [["encoder.xml"], ["encoder.bin"], ["encoder.xml", "encoder.bin", "readme.txt"]])
def test_files_come_in_pairs_and_nothing_else_is_there(names: list[str]) -> None:
    with pytest.raises(ArtifactError, match=r"is no file of an OpenVINO model, expected NAME\.xml with its NAME\.bin"):
        describe({name: FILES.get(name, b"") for name in names})


def check_against_the_standard_library(text: bytes) -> None:
    """Refused, or read exactly as expat reads it; never anything else."""
    try:
        found = read_openvino_structure(text, WEIGHTS_SIZE, "x.xml")
    except ArtifactError:
        return
    root = ElementTree.fromstring(text)
    layers = list(root.iter("layer"))
    assert found.op_counts == Counter(layer.get("type") for layer in layers)
    parameters = [port for layer in layers if layer.get("type") == "Parameter" for port in layer.iter("port")]
    assert [tensor.name for tensor in found.inputs] == [port.get("names", "") for port in parameters]
    assert not list(root.iter("rt_info")) and not list(root.iter("body"))
    for data in root.iter("data"):
        if "offset" in data.attrib:
            assert int(data.attrib["offset"]) + int(data.attrib["size"]) <= WEIGHTS_SIZE


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_models_are_refused_or_read_as_the_standard_library_reads_them(data: st.DataObject) -> None:
    model = bytearray(data.draw(st.sampled_from([ENCODER, DECODER])).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(model) - 1))
        match data.draw(st.sampled_from(["flip", "digit", "cut", "insert", "repeat"])):
            case "flip":
                model[at] ^= 1 << data.draw(st.integers(0, 7))
            case "digit":  # most bytes of a model are tags: mutations of its numbers would be rare
                places = [match.start() for match in re.finditer(rb"\d", model)]
                model[data.draw(st.sampled_from(places))] = data.draw(st.sampled_from(b"0123456789-?"))
            case "cut":
                del model[at : at + data.draw(st.integers(1, 30))]
                model = model or bytearray(b"1")
            case "insert":
                model[at:at] = data.draw(st.binary(min_size=1, max_size=12))
            case "repeat":
                model[at:at] = model[at : at + data.draw(st.integers(1, 200))]
    check_against_the_standard_library(bytes(model))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data: bytes) -> None:
    for text in (data, HEADER.encode() + data):
        with pytest.raises(ArtifactError):
            read_openvino_structure(text, 0, "x.xml")


@pytest.mark.parametrize("mutate", [lambda text, at: text[:at], lambda text, at: text[at:]], ids=["head", "tail"])
def test_every_truncation_is_refused(mutate: Callable[[bytes, int], bytes]) -> None:
    text = ENCODER.encode()
    for at in range(1, len(text) - len(b"</net>"), 37):
        with pytest.raises(ArtifactError):
            read_openvino_structure(mutate(text, at), WEIGHTS_SIZE, "x.xml")
