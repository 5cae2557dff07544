"""manifest.json <-> `Manifest`.

`from_json` trusts nothing, since a folder may come from anywhere: types, bounds and file names are checked, and the
tensors must be the ones that `contract.py` gives for the model. Raises ArtifactError.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any, NoReturn, TypeVar

from sam_edge.contract import EMBEDDING_STRIDE, HIGH_RES_FEATURES, ModelSpec
from sam_edge.errors import ArtifactError
from sam_edge.manifest import (
    POINTS,
    PREPROCESSING,
    PROMPTS,
    SCHEMA,
    FileEntry,
    Graph,
    JsonDict,
    Manifest,
    Tensor,
    contract_tensors,
)

__all__ = ["from_json", "to_json"]

MAX_BYTES = 1 << 20  # of manifest.json
MAX_FILE_BYTES = (1 << 31) - 1  # of a model file; protobuf's own limit for a message
MAX_PARAMETERS = 1 << 40
MAX_IMAGE_SIZE = 4096  # pixels; SAM has 1024
MAX_CHANNELS = 4096
MAX_FIXED = 4096  # prompts or points of a file with fixed sizes
MAX_TOLERANCE = 20.0  # standard deviations; anything past it is no tolerance
MAX_DEPTH = 5  # names in a file's path
MAX_GREY_LEVEL = 1e6  # of pixel_mean and pixel_std, so that no normalised value overflows

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")


def to_json(manifest: Manifest) -> str:
    """The text of manifest.json; the same manifest always gives the same bytes."""
    return json.dumps({"schema": SCHEMA, "preprocessing": PREPROCESSING, **asdict(manifest)}, indent=1) + "\n"


def from_json(text: str | bytes) -> Manifest:
    """Read and check the text of manifest.json."""
    if len(text) > MAX_BYTES:
        _refuse(f"it has {len(text)} bytes, expected at most {MAX_BYTES}")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        _refuse(f"it is not JSON ({error})")
    top = _Object(data, "")
    if (schema := top.take("schema", int)) != SCHEMA:
        raise ArtifactError(f"manifest.json has schema {schema}, this version reads {SCHEMA}. Update sam-edge.")
    if top.take("preprocessing", dict) != PREPROCESSING:
        raise ArtifactError("manifest.json asks for a preprocessing that this version does not do. Update sam-edge.")
    manifest = Manifest(
        name=top.take("name", str),
        spec=_spec(top.object("spec")),
        config=top.take("config", dict),
        parameters=top.bounded("parameters", 0, MAX_PARAMETERS),
        checkpoint_sha256=top.sha256("checkpoint_sha256"),
        target=top.take("target", str),
        precision=top.take("precision", str),
        weights_stored=top.take("weights_stored", str),
        recipe=top.take("recipe", dict),
        graphs={key: _graph(graph) for key, graph in top.objects("graphs").items()},
        files={_inner_path(key, "files"): _file(entry) for key, entry in top.objects("files").items()},
        tool_versions=top.dict_of("tool_versions", str),
        licence=top.take("licence", str),
        training_data=top.take("training_data", str),
        command=top.take("command", str),
        fixed_sizes=_fixed_sizes(top.take("fixed_sizes", dict)),
        embedding_tolerance=_tolerance(top.take("embedding_tolerance", float)),
        quality=top.take("quality", dict),
    )
    top.done()
    _check_agreement(manifest)
    return manifest


def _check_agreement(manifest: Manifest) -> None:
    """The parts must agree with each other and with the contract."""
    if _plain_name(manifest.name, "name") != manifest.spec.name:
        _refuse(f"name is {manifest.name!r}, but the spec's is {manifest.spec.name!r:.60}")
    for key, (inputs, outputs) in contract_tensors(manifest.spec).items():
        if key not in manifest.graphs:
            _refuse(f"it has no graph {key!r}")
        graph = manifest.graphs[key]
        for kind, got, expected in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
            if got != expected:
                _refuse(f"{key} {kind} are {_words(got)}, but the contract's are {_words(expected)}")
    for key, graph in manifest.graphs.items():
        if graph.file not in manifest.files:
            _refuse(f"{graph.file!r} of graph {key!r:.60} is not among its files")


def _refuse(what: str) -> NoReturn:
    raise ArtifactError(f"manifest.json cannot be used: {what}. Export the model again, or download its folder again.")


class _Object:
    """A JSON object whose keys are taken one by one, each with the type it must have."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            _refuse(f"{where or 'the whole'} is {data!r:.60}, expected an object")
        self._left, self._where = dict(data), where

    def take(self, key: str, kind: type[_T]) -> _T:
        if key not in self._left:
            _refuse(f"{self._where}{key} is missing")
        return _typed(self._left.pop(key), kind, self._where + key)

    def bounded(self, key: str, low: int, high: int) -> int:
        return _bounded(self.take(key, int), low, high, self._where + key)

    def sha256(self, key: str) -> str:
        if not _SHA256.fullmatch(text := self.take(key, str)):
            _refuse(f"{self._where}{key} is {text!r:.80}, expected 64 hexadecimal digits")
        return text

    def object(self, key: str) -> _Object:
        return _Object(self.take(key, dict), f"{self._where}{key}.")

    def objects(self, key: str) -> dict[str, _Object]:
        return {name: _Object(item, f"{key}.{name:.60}.") for name, item in self.take(key, dict).items()}

    def dict_of(self, key: str, kind: type[_T]) -> dict[str, _T]:
        return {name: _typed(item, kind, f"{key}.{name:.60}") for name, item in self.take(key, dict).items()}

    def done(self) -> None:
        if self._left:
            _refuse(f"{self._where}{next(iter(self._left))!r:.60} is no field of schema {SCHEMA}")


def _typed(value: Any, kind: type[_T], where: str) -> _T:
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):  # True is an int to Python
        _refuse(f"{where} is {value!r:.60}, expected {kind.__name__}")
    return value


def _bounded(value: int, low: int, high: int, where: str) -> int:
    if not low <= value <= high:
        _refuse(f"{where} is {value!s:.30}, expected {low} to {high}")
    return value


def _spec(data: _Object) -> ModelSpec:
    channels = [_typed(value, int, "spec.high_res_channels") for value in data.take("high_res_channels", list)]
    spec = ModelSpec(
        name=data.take("name", str),
        image_size=data.bounded("image_size", EMBEDDING_STRIDE, MAX_IMAGE_SIZE),
        embedding_channels=data.bounded("embedding_channels", 1, MAX_CHANNELS),
        high_res_channels=tuple(_bounded(value, 1, MAX_CHANNELS, "spec.high_res_channels") for value in channels),
        pixel_mean=_per_channel(data.take("pixel_mean", list), "spec.pixel_mean"),
        pixel_std=_per_channel(data.take("pixel_std", list), "spec.pixel_std"),
        pred_iou_thresh=_share(data.take("pred_iou_thresh", float), "spec.pred_iou_thresh"),
        stability_score_thresh=_share(data.take("stability_score_thresh", float), "spec.stability_score_thresh"),
        photo_input=data.take("photo_input", bool),
    )
    data.done()
    if spec.image_size % EMBEDDING_STRIDE:
        _refuse(f"spec.image_size is {spec.image_size}, expected a multiple of {EMBEDDING_STRIDE}")
    if len(channels) not in (0, len(HIGH_RES_FEATURES)):
        _refuse(f"spec.high_res_channels has {len(channels)} numbers, expected none or {len(HIGH_RES_FEATURES)}")
    if min(spec.pixel_std) <= 0:
        _refuse(f"spec.pixel_std is {spec.pixel_std}, expected numbers above 0")
    return spec


def _fixed_sizes(data: JsonDict) -> dict[str, list[int]]:
    if data and set(data) != {PROMPTS, POINTS}:
        _refuse(f"fixed_sizes names {sorted(data)}, expected {POINTS} and {PROMPTS}, or nothing")
    for name, sizes in data.items():
        whole = isinstance(sizes, list) and all(type(size) is int and 1 <= size <= MAX_FIXED for size in sizes)
        if not (whole and sizes and sizes == sorted(set(sizes))):
            _refuse(f"fixed_sizes.{name} is {sizes!r:.60}, expected rising numbers of 1 to {MAX_FIXED}")
    return data


def _tolerance(value: float) -> float:
    if not 0 < value <= MAX_TOLERANCE:
        _refuse(f"embedding_tolerance is {value!r:.30}, expected more than 0 and at most {MAX_TOLERANCE}")
    return value


def _share(value: float, where: str) -> float:
    if not 0 <= value <= 1:
        _refuse(f"{where} is {value!r:.30}, expected 0 to 1")
    return value


def _per_channel(values: list[Any], where: str) -> tuple[float, float, float]:
    if len(values) != 3 or not all(type(value) in (int, float) and abs(value) <= MAX_GREY_LEVEL for value in values):
        _refuse(f"{where} is {values!r:.60}, expected three numbers of grey levels")
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _graph(data: _Object) -> Graph:
    graph = Graph(
        file=_inner_path(data.take("file", str), "graphs"),
        inputs=_tensors(data.take("inputs", list)),
        outputs=_tensors(data.take("outputs", list)),
        op_counts=data.dict_of("op_counts", int),
    )
    data.done()
    return graph


def _tensors(items: list[Any]) -> tuple[Tensor, ...]:
    tensors = []
    for data in (_Object(item, "tensor.") for item in items):
        sizes = data.take("shape", list)
        shape = tuple(size if isinstance(size, str) else _typed(size, int, "tensor.shape") for size in sizes)
        tensors.append(Tensor(data.take("name", str), data.take("dtype", str), shape))
        data.done()
    return tuple(tensors)


def _file(data: _Object) -> FileEntry:
    entry = FileEntry(data.sha256("sha256"), data.bounded("bytes", 0, MAX_FILE_BYTES))
    data.done()
    return entry


def _plain_name(name: str, where: str) -> str:
    """A name inside the artifact's own folder: no separators, no "..", no drive, nothing hidden."""
    if not _SAFE_NAME.fullmatch(name):
        _refuse(f"{where} has {name!r:.60}, expected a plain file name inside its folder")
    return name


def _inner_path(name: str, where: str) -> str:
    """A path inside the artifact's folder: plain names, at most MAX_DEPTH deep (a Core ML package is a folder)."""
    parts = name.split("/")
    if len(parts) > MAX_DEPTH:
        _refuse(f"{where} has {name!r:.60}, expected at most {MAX_DEPTH} names in a path")
    return "/".join(_plain_name(part, where) for part in parts)


def _words(tensors: tuple[Tensor, ...]) -> str:
    words = ", ".join(f"{t.name} {t.dtype} ({', '.join(map(str, t.shape))})" for t in tensors)
    return words[:400] or "none"
