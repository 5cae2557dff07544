"""Reads the structure of Core ML packages, and refuses what a model file may not do, before a runtime sees a byte.

    encoder.mlpackage/Manifest.json                               names the two files below it, nothing else
    encoder.mlpackage/Data/com.apple.CoreML/model.mlmodel         a protobuf message, Model
    encoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin    weights, found by their offset

and the same for the decoder. Allowed is one ML Program of one function without inner blocks, of known operators, with
tensors of plain numbers; weights lie inside weight.bin, whole and of the type they are declared with. Everything else
of the format is refused: other kinds of models, custom layers, pipelines, states, images, other paths.

`mil_program.py` reads the program, `mil_values.py` its constants; here are the package and what it says of itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from sam_edge.errors import ArtifactError
from sam_edge.manifest import POINTS, PROMPTS, Graph, Tensor
from sam_edge.mil_program import Program, ProgramReader
from sam_edge.mil_values import MAX_RANK, MilType, Shape, Weights, bounded
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
    "SUFFIX",
    "WEIGHTS_PATH",
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
MAX_RANGE = 1 << 16  # prompts or points of a flexible size
SPECIFICATION_VERSION = 8  # iOS 17 and macOS 14
FLOAT32_ARRAY = 65568  # ArrayFeatureType.FLOAT32, of the description's inputs and outputs

# Model.proto and FeatureTypes.proto, as far as an ML Program over multi-arrays needs them.
MODEL = message("Model", "1v 2b 502b")
DESCRIPTION = message("ModelDescription", "1b* 10b* 100b")
FEATURE = message("FeatureDescription", "1b 3b")
FEATURE_TYPE = message("FeatureType", "5b")
ARRAY = message("ArrayFeatureType", "1v* 2v 31b")
SHAPE_RANGE = message("ShapeRange", "1b*")
SIZE_RANGE = message("SizeRange", "1v 2v")


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
        self.programs = ProgramReader(self.wire, Weights(memoryview(weights)))
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
        program = self.programs.program(parts[502], self.largest)
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
        return bounded(tuple(shape))

    def size_range(self, data: memoryview) -> tuple[int, int]:
        bounds = {number: as_int(value) for number, value in self.wire.fields(data, SIZE_RANGE)}
        return bounds.get(1, 0), bounds.get(2, 0)
