"""Reads the structure of an OpenVINO model, and refuses what a model file may not do, before a runtime sees a byte.

A graph is two files: NAME.xml, its layers and edges, and NAME.bin, the numbers of its constants. The reader knows the
small part of XML that OpenVINO's own writer uses: the elements and attributes listed below, attribute values of plain
characters, whole numbers as the only text. So there is nothing that two XML readers could understand differently: no
document type, no entity, comment, processing instruction, character reference or second encoding. Extensions (operators
from elsewhere), subgraphs, states, texts as data, and constants outside NAME.bin are refused.

It bounds what the files themselves declare. What a layer computes from its inputs at run time, it cannot bound.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from sam_edge.errors import ArtifactError
from sam_edge.manifest import HEIGHT, POINTS, PROMPTS, WIDTH, Graph, Tensor
from sam_edge.protobuf import Refused, refuse

__all__ = ["OpenvinoStructure", "describe", "read_openvino_structure"]

MAX_XML_BYTES = 1 << 26  # nano's two files have 0.6 MB
MAX_ELEMENTS = 1_000_000  # XML elements of a file; nano's two files have 25,000
MAX_RANK = 8
MAX_SIZE = 1 << 30  # elements of one tensor, stored or declared: 4 GiB of float32
IR_VERSION = "11"
OPSETS = range(1, 17)
STATES = ("ReadValue", "Assign")  # a layer that remembers would answer a photo with the one before
# The format has no names for free sizes: of a prompt tensor the first is B and the second N, a photo is uint8.
FREE_SIZES = {"f32": (PROMPTS, POINTS), "u8": (HEIGHT, WIDTH)}

# In constants and parameters: (dtype, bytes an element), and the same types as ports call them.
DTYPES = {
    "f32": ("float32", 4), "f16": ("float16", 2), "i8": ("int8", 1), "u8": ("uint8", 1), "i32": ("int32", 4),
    "i64": ("int64", 8), "boolean": ("bool", 1),
}  # fmt: skip
PRECISIONS = {"f32": "FP32", "u8": "U8"}  # of inputs and outputs

# Element -> (elements inside it, attributes it must have, others it may have). `data` has those of its layer's type.
ELEMENTS: dict[str, tuple[frozenset[str], frozenset[str], frozenset[str]]] = {
    name: (frozenset(inside.split()), frozenset(needed.split()), frozenset(allowed.split()))
    for name, inside, needed, allowed in (
        ("net", "layers edges", "name version", ""),
        ("layers", "layer", "", ""),
        ("layer", "data input output", "id name type version", "output_names"),
        ("data", "", "", ""),
        ("input", "port", "", ""),
        ("output", "port", "", ""),
        ("port", "dim", "id precision", "names"),
        ("edges", "edge", "", ""),
        ("edge", "", "from-layer from-port to-layer to-port", ""),
    )
}
REPEATED = ("layer", "port", "edge", "dim")

HEADER = b'<?xml version="1.0"?>'
VALUE = r"[ !#-%\'-;=?-~]*"  # printable ASCII without " & < >
ATTRIBUTE = rf'[a-z][a-z_-]*="{VALUE}"'
TOKEN = re.compile(
    rf"[ \t\r\n]*(?:<dim>(?P<dim>-1|[0-9]{{1,18}})</dim>"
    rf"|<(?P<open>(?!dim\b)[a-z]+)(?P<attributes>(?: {ATTRIBUTE})*) ?(?P<empty>/?)>"
    r"|</(?P<close>[a-z]+)>)",
    re.ASCII,
)
NAME_AND_VALUE = re.compile(rf'([a-z][a-z_-]*)="({VALUE})"')
NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


@dataclass
class OpenvinoStructure:
    """inputs and outputs as declared, in their order; op_counts: every layer's type; weight_bytes: of all constants."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    op_counts: Counter[str] = field(default_factory=Counter)
    weight_bytes: int = 0


def describe(files: Mapping[str, bytes]) -> dict[str, Graph]:
    """encoder.xml, encoder.bin, decoder.xml and decoder.bin to the graphs "encoder" and "decoder".

    Raises ArtifactError.
    """
    graphs = {}
    for name, data in files.items():
        stem, _, suffix = name.rpartition(".")
        other = f"{stem}.{'bin' if suffix == 'xml' else 'xml'}"
        if suffix not in ("xml", "bin") or not stem or other not in files:
            raise ArtifactError(
                f"{name} is no file of an OpenVINO model, expected NAME.xml with its NAME.bin. Export the model again."
            )
        if suffix == "xml":
            found = read_openvino_structure(data, len(files[other]), name)
            counts = dict(sorted(found.op_counts.items()))
            graphs[stem] = Graph(name, tuple(found.inputs), tuple(found.outputs), counts)
    return graphs


def read_openvino_structure(xml: bytes, weights_size: int, file_name: str) -> OpenvinoStructure:
    """Read the XML of a graph whose constants have `weights_size` bytes. Raises ArtifactError, naming the file and what
    is not allowed in it."""
    try:
        return _Reader(weights_size).net(_parse(xml))
    except Refused as refused:
        raise ArtifactError(
            f"{file_name} is refused before it runs: {refused}. Use a model file that this package exported."
        ) from None


@dataclass
class _Element:
    tag: str
    attributes: dict[str, str]
    children: list[_Element] = field(default_factory=list)
    dims: list[int] = field(default_factory=list)

    def child(self, tag: str) -> _Element | None:
        return next((child for child in self.children if child.tag == tag), None)

    def number(self, name: str) -> int:
        value = self.attributes.get(name, "")
        if not NUMBER.fullmatch(value):
            refuse(f"{name} of a {self.tag} is {value!r:.40}, expected a number")
        return int(value)


def _parse(xml: bytes) -> _Element:
    """The root element; ELEMENTS bounds the depth."""
    if len(xml) > MAX_XML_BYTES:
        refuse(f"it has {len(xml)} bytes, expected at most {MAX_XML_BYTES}")
    if not xml.startswith(HEADER):
        refuse(f"it does not start with {HEADER.decode()}")
    try:
        text = xml[len(HEADER) :].decode("ascii")
    except UnicodeDecodeError:
        refuse("it has characters other than ASCII")
    document = _Element("", {})
    path = [document]
    count = 0
    position, end = 0, len(text.rstrip(" \t\r\n"))
    while position < end:
        count += 1
        if count > MAX_ELEMENTS:
            refuse(f"it has more than {MAX_ELEMENTS} elements")
        token = TOKEN.match(text, position)
        if token is None:
            refuse(f"{text[position : position + 40].strip()!r} is not what OpenVINO writes")
        _add(path, token)
        position = token.end()
    if len(path) != 1 or len(document.children) != 1:
        refuse("it is cut off, or has more than one model")
    return document.children[0]


def _add(path: list[_Element], token: re.Match[str]) -> None:
    """Open, close or fill an element at the end of `path`."""
    parent = path[-1]
    if token["close"] is not None:
        if len(path) == 1 or parent.tag != token["close"]:
            refuse(f"</{token['close']:.40}> closes nothing")
        path.pop()
        return
    tag = "dim" if token["dim"] is not None else token["open"]
    if tag not in (ELEMENTS[parent.tag][0] if parent.tag else ("net",)):
        refuse(f"<{tag:.40}> is not allowed in <{parent.tag or 'the file'}>")
    if tag == "dim":
        parent.dims.append(int(token["dim"]))
        return
    if tag not in REPEATED and parent.child(tag) is not None:
        refuse(f"<{tag}> is there twice")
    element = _Element(tag, _attributes(tag, token["attributes"]))
    parent.children.append(element)
    if not token["empty"]:
        path.append(element)


def _attributes(tag: str, text: str) -> dict[str, str]:
    pairs = NAME_AND_VALUE.findall(text)
    attributes = dict(pairs)
    if len(attributes) != len(pairs):
        refuse(f"an attribute of a {tag} is there twice")
    _, needed, allowed = ELEMENTS[tag]
    wrong = (needed - attributes.keys()) | (attributes.keys() - needed - allowed if tag != "data" else set())
    if wrong:
        refuse(f"attribute {min(wrong):.40} of a {tag} is missing or not allowed")
    return attributes


@dataclass
class _Layer:
    index: int
    name: str
    kind: str
    data: dict[str, str]
    inputs: dict[int, _Element]
    outputs: dict[int, _Element]
    output_names: str | None


class _Reader:
    def __init__(self, weights_size: int) -> None:
        self.weights_size = weights_size
        self.found = OpenvinoStructure()
        self.layers: dict[int, _Layer] = {}
        self.sources: dict[tuple[int, int], _Element] = {}  # (layer, input port) -> the output port it reads

    def net(self, net: _Element) -> OpenvinoStructure:
        if net.attributes["version"] != IR_VERSION:
            refuse(f"IR version {net.attributes['version']!r:.40} is not allowed, expected {IR_VERSION}")
        layers, edges = net.child("layers"), net.child("edges")
        if layers is None or edges is None:
            refuse("it has no layers or no edges")
        for element in layers.children:
            self.layer(element)
        for element in edges.children:
            self.edge(element)
        for number, layer in self.layers.items():
            if any((number, port) not in self.sources for port in layer.inputs):
                refuse(f"an input of layer {layer.name!r:.60} comes from nowhere")
            if layer.kind == "Result":
                self.found.outputs.append(self.result(number, layer))
        if not (self.found.inputs and self.found.outputs):
            refuse("it is no model with inputs and outputs")
        return self.found

    def layer(self, element: _Element) -> None:
        attributes = element.attributes
        kind, opset = attributes["type"], attributes["version"]
        if not re.fullmatch("[A-Za-z][A-Za-z0-9]{0,60}", kind) or kind in STATES:
            refuse(f"layer type {kind!r:.60} is not allowed")
        if opset not in {f"opset{number}" for number in OPSETS}:
            refuse(f"operator set {opset!r:.40} is not allowed, expected opset{OPSETS.start} to opset{OPSETS.stop - 1}")
        number = element.number("id")
        if number in self.layers:
            refuse(f"layer {number} is there twice")
        data = element.child("data")
        layer = _Layer(
            len(self.layers),
            attributes["name"],
            kind,
            {} if data is None else data.attributes,
            _ports(element.child("input")),
            _ports(element.child("output")),
            attributes.get("output_names"),
        )
        self.layers[number] = layer
        self.found.op_counts[kind] += 1
        if kind == "Parameter":
            self.found.inputs.append(_parameter(layer))
        elif kind == "Const":
            self.found.weight_bytes += self.constant(layer)

    def constant(self, layer: _Layer) -> int:
        """Its bytes lie inside the weights' file, as many as its shape needs. Returns how many."""
        dtype, shape = _type_and_shape(layer)
        if any(size < 0 for size in shape) or layer.inputs:
            refuse(f"constant {layer.name!r:.60} has no fixed shape")
        needed = _elements(shape) * DTYPES[dtype][1]
        offset, size = (_whole(layer.data.get(name, ""), name) for name in ("offset", "size"))
        if size != needed:
            refuse(f"constant {layer.name!r:.60} has {size} bytes, expected {needed} for its shape")
        if offset + size > self.weights_size:
            refuse(f"constant {layer.name!r:.60} lies outside the {self.weights_size} bytes of its .bin file")
        return size

    def edge(self, edge: _Element) -> None:
        here, port, there, entry = (edge.number(x) for x in ("from-layer", "from-port", "to-layer", "to-port"))
        source, target = self.layers.get(here), self.layers.get(there)
        if source is None or target is None or port not in source.outputs or entry not in target.inputs:
            refuse(f"an edge from layer {here} to layer {there} has no such layers or ports")
        if source.index >= target.index:  # OpenVINO writes layers in the order in which they run, hence no cycles
            refuse(f"an edge leads back from layer {here} to layer {there}")
        if (there, entry) in self.sources:
            refuse(f"an input of layer {there} comes from two places")
        self.sources[there, entry] = source.outputs[port]

    def result(self, number: int, layer: _Layer) -> Tensor:
        if len(layer.inputs) != 1 or layer.outputs:
            refuse(f"result {layer.name!r:.60} has other ports than one input")
        entry, port = next(iter(layer.inputs.items()))
        name = self.sources[number, entry].attributes.get("names", "")
        if layer.output_names not in (None, name):
            refuse(f"result {layer.name!r:.60} has the names {layer.output_names!r:.60} and {name!r:.60}")
        return _tensor(name, port)


def _parameter(layer: _Layer) -> Tensor:
    dtype, shape = _type_and_shape(layer)
    if len(layer.outputs) != 1 or layer.inputs:
        refuse(f"parameter {layer.name!r:.60} has other ports than one output")
    (port,) = layer.outputs.values()
    if port.dims != shape or dtype not in FREE_SIZES:
        refuse(f"parameter {layer.name!r:.60} is neither float32 nor uint8, or has two shapes")
    return _tensor(port.attributes.get("names", ""), port, dtype)


def _tensor(name: str, port: _Element, element_type: str = "f32") -> Tensor:
    dtype, precision, free = DTYPES[element_type][0], PRECISIONS[element_type], FREE_SIZES[element_type]
    if port.attributes["precision"] != precision:
        refuse(f"{name!r:.60} is {port.attributes['precision']!r:.20}, expected {precision}")
    _elements([size for size in port.dims if size >= 0])
    if any(size < 0 for size in port.dims[len(free) :]):
        refuse(f"{name!r:.60} has free sizes past its first {len(free)}")
    shape = (free[axis] if size < 0 else size for axis, size in enumerate(port.dims))
    return Tensor(name, dtype, tuple(shape))


def _ports(group: _Element | None) -> dict[int, _Element]:
    ports: dict[int, _Element] = {}
    for port in group.children if group is not None else ():
        number = port.number("id")
        if number in ports or len(port.dims) > MAX_RANK:
            refuse(f"port {number} is there twice, or has more than {MAX_RANK} sizes")
        ports[number] = port
    return ports


def _type_and_shape(layer: _Layer) -> tuple[str, list[int]]:
    """Of a Parameter or Const: "1,128,32,32", "?,?,2", or nothing for a scalar; a free size is -1."""
    dtype, text = layer.data.get("element_type", ""), layer.data.get("shape", "missing")
    if dtype not in DTYPES:
        refuse(f"element type {dtype!r:.40} of {layer.name!r:.60} is not allowed")
    words = text.replace(" ", "").split(",") if text else []
    if len(words) > MAX_RANK:
        refuse(f"{layer.name!r:.60} has more than {MAX_RANK} sizes")
    return dtype, [-1 if word == "?" else _whole(word, "a size") for word in words]


def _elements(shape: list[int]) -> int:
    elements = 1
    for size in shape:  # one by one: a product of many sizes could be a very long number
        elements *= size
        if elements > MAX_SIZE or size > MAX_SIZE:
            refuse(f"a tensor of shape {shape[:MAX_RANK]} is past the bounds")
    return elements


def _whole(text: str, what: str) -> int:
    if not NUMBER.fullmatch(text):
        refuse(f"{what} is {text!r:.40}, expected a number")
    return int(text)
