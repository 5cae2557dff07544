"""manifest.json: what is wrong with it is said, whatever stands in it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_edge import manifest_json
from sam_edge.artifact import open_artifact
from sam_edge.errors import ArtifactError
from sam_edge.manifest import Manifest, contract_tensors
from tests.artifacts.artifact_files import edit, set_at
from tests.small_artifact import (
    SPEC,
    small_manifest,
)


@pytest.mark.parametrize(
    "name",
    ["../encoder.onnx", "/etc/passwd", "a/../../b", "a//b", "a/", "..", ".hidden", "C:evil", "a\\b", "", "x\n"],
)
def test_a_manifest_cannot_name_a_file_outside_its_folder(folder: Path, name: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = manifest["files"]["encoder.onnx"]
        manifest["graphs"]["encoder"]["file"] = name

    edit(folder, change)
    with pytest.raises(ArtifactError, match="expected a plain file name inside its folder"):
        open_artifact(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_at("schema", 1), "has schema 1, this version reads 3"),
        (set_at("schema", True), "schema is True, expected int"),
        (set_at("preprocessing", "pad", "centre"), "a preprocessing that this version does not do"),
        (set_at("fixed_sizes", {"prompts": [4]}), "fixed_sizes names \\['prompts'\\], expected points and prompts"),
        (set_at("fixed_sizes", {"prompts": [4, 1], "points": [8]}), "expected rising numbers of 1 to 4096"),
        (set_at("fixed_sizes", {"prompts": [0], "points": [8]}), "expected rising numbers of 1 to 4096"),
        (set_at("embedding_tolerance", float("nan")), "embedding_tolerance is nan, expected more than 0"),
        (set_at("embedding_tolerance", 1e9), "expected more than 0 and at most 20"),
        (set_at("spec", "image_size", 128), "but the contract's are image float32"),
        (set_at("spec", "image_size", 60), "expected a multiple of 16"),
        (set_at("spec", "image_size", 1 << 40), "expected 16 to 4096"),
        (set_at("spec", "embedding_channels", 0), "expected 1 to 4096"),
        (set_at("spec", "high_res_channels", [2]), "expected none or 2"),
        (set_at("spec", "pixel_std", [1, 0, 1]), "expected numbers above 0"),
        (set_at("spec", "pixel_mean", [1, "2", 3]), "expected three numbers"),
        (set_at("spec", "pixel_mean", [1, float("nan"), 3]), "expected three numbers"),
        (set_at("spec", "name", "other"), "name is 'small', but the spec's is 'other'"),
        (set_at("graphs", "decoder", "inputs", []), "decoder inputs are none"),
        (set_at("graphs", "decoder", "outputs", 0, "dtype", "float16"), "low_res_masks float16"),
        (set_at("graphs", "encoder", "file", "other.onnx"), "'other.onnx' of graph 'encoder' is not among its files"),
        (set_at("files", "encoder.onnx", "sha256", "abc"), "expected 64 hexadecimal digits"),
        (set_at("files", "encoder.onnx", "bytes", -1), "expected 0 to"),
        (set_at("parameters", 10**4000), "parameters is 1000"),
        (set_at("licence", None), "licence is None, expected str"),
        (set_at("surprise", 1), "'surprise' is no field"),
        (lambda data: data.pop("spec"), "spec is missing"),
        (lambda data: data["graphs"].pop("decoder"), "it has no graph 'decoder'"),
    ],
)
def test_a_manifest_that_is_wrong_says_where(
    folder: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    edit(folder, change)
    with pytest.raises(ArtifactError, match=reason) as caught:
        open_artifact(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "\xff", "[" * 100_000, '{"schema": 1e999}', " " * (1 << 21), '{"schema": ' + "9" * 5000],
)
def test_a_manifest_that_is_no_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        open_artifact(folder)


def json_values() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    return st.recursive(
        leaves, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=4), x, max_size=3), max_leaves=5
    )


def whole_document() -> dict[str, Any]:
    """manifest.json of the small artifact as JSON data."""
    graphs = {}
    for key, (inputs, outputs) in contract_tensors(SPEC).items():
        tensors = {"inputs": inputs, "outputs": outputs}
        described = {kind: [dataclasses.asdict(tensor) for tensor in side] for kind, side in tensors.items()}
        graphs[key] = {"file": f"{key}.onnx", "op_counts": {}, **described}
    files = {f"{key}.onnx": {"sha256": "0" * 64, "bytes": 1} for key in graphs}
    manifest = dataclasses.asdict(small_manifest()) | {"graphs": graphs, "files": files}
    return dict(json.loads(json.dumps(manifest | {"schema": 3, "preprocessing": manifest_json.PREPROCESSING})))


def test_the_document_of_the_next_test_is_whole() -> None:
    assert manifest_json.from_json(json.dumps(whole_document())).spec == SPEC


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_manifest_is_read_or_refused_with_an_artifact_error(data: st.DataObject) -> None:
    document = whole_document()
    for _ in range(data.draw(st.integers(1, 3))):
        node: Any = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and data.draw(st.booleans()):
                node = node[key]
                continue
            if isinstance(node, dict) and data.draw(st.booleans()):
                node[data.draw(st.text(max_size=5))] = node.pop(key)
            else:
                node[key] = data.draw(json_values())
            break
    try:
        read = manifest_json.from_json(json.dumps(document))
    except ArtifactError:
        return
    assert isinstance(read, Manifest)
    assert all("/" not in name and not name.startswith(".") for name in read.files)
