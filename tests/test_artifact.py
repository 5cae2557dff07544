"""Artifact folders: written whole, read back checked, refused when anything in them differs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_edge import golden_vectors, manifest_json
from sam_edge.artifact import Artifact, open_artifact, record_quality, write_artifact
from sam_edge.contract import ModelSpec
from sam_edge.errors import ArtifactError, ExportError, OutputError
from sam_edge.golden_vectors import check_embeddings, compare, pack, record, unpack
from sam_edge.manifest import Manifest, contract_tensors
from sam_edge.runtimes import with_onnxruntime
from tests.small_artifact import (
    ENCODER,
    SPEC,
    small_artifact,
    small_files,
    small_graph,
    small_manifest,
    small_photo,
    small_prompts,
    whole_artifact,
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole artifact with two golden photos."""
    return whole_artifact(tmp_path_factory.mktemp("original"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "small"))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def put(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and make the manifest agree with it."""
    (folder / name).write_bytes(data)
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit(folder, lambda manifest: manifest["files"].update({name: facts}))


def read_all(folder: Path) -> None:
    artifact = open_artifact(folder)
    artifact.read_graph("encoder")
    artifact.read_graph("decoder")
    artifact.read_golden()


def test_a_written_artifact_is_read_back_as_it_was(original: Path) -> None:
    artifact = open_artifact(original)
    assert artifact.read_graph("encoder") == small_graph(ENCODER)
    assert artifact.manifest.spec == SPEC
    assert artifact.manifest.graphs["encoder"].op_counts == {"AveragePool": 3, "Conv": 3}
    assert {path.name for path in original.iterdir()} == {"manifest.json", *artifact.manifest.files}
    assert artifact.size_bytes == sum(p.stat().st_size for p in original.iterdir() if p.name != "manifest.json")
    assert manifest_json.from_json(manifest_json.to_json(artifact.manifest)) == artifact.manifest


def test_the_same_model_gives_the_same_bytes(original: Path, tmp_path: Path) -> None:
    again = small_artifact(tmp_path / "again", open_artifact(original).read_golden())
    for path in original.iterdir():
        assert path.read_bytes() == (again.directory / path.name).read_bytes(), path.name


def test_the_contract_of_sam_and_of_a_model_with_high_res_features() -> None:
    inputs, outputs = contract_tensors(ModelSpec("vit_b", 1024, 256))["encoder"]
    assert [(t.name, t.shape) for t in inputs] == [("image", (1, 3, 1024, 1024))]
    assert [(t.name, t.shape) for t in outputs] == [("image_embeddings", (1, 256, 64, 64))]
    inputs, outputs = contract_tensors(SPEC)["decoder"]
    assert [(t.name, t.shape) for t in inputs][1:4] == [
        ("high_res_features_0", (1, 2, 16, 16)),
        ("high_res_features_1", (1, 2, 8, 8)),
        ("point_coords", ("prompts", "points", 2)),
    ]
    assert [t.shape for t in outputs] == [("prompts", 4, 16, 16), ("prompts", 4)]


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "golden.npz"])
def test_one_changed_bit_in_any_file_is_noticed(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{name} is not the file of its manifest: got {len(data)} bytes"):
        read_all(folder)


@pytest.mark.parametrize("change", ["truncated", "longer", "missing", "link", "folder"])
def test_a_file_that_is_not_whole_or_not_a_file_is_refused(folder: Path, change: str) -> None:
    path = folder / "encoder.onnx"
    data = path.read_bytes()
    path.unlink()
    match change:
        case "truncated":
            path.write_bytes(data[:-1])
        case "longer":
            path.write_bytes(data + b"\0")
        case "link":  # even to the right bytes: what it leads to may change after the check
            (folder.parent / "elsewhere").write_bytes(data)
            path.symlink_to(folder.parent / "elsewhere")
        case "folder":
            path.mkdir()
    with pytest.raises(ArtifactError, match=r"encoder\.onnx") as caught:
        read_all(folder)
    assert "Export the model again" in str(caught.value)


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


def set_at(*path: Any) -> Callable[[dict[str, Any]], None]:
    """set_at("a", "b", 3): data["a"]["b"] = 3."""

    def change(data: Any) -> None:
        for key in path[:-2]:
            data = data[key]
        data[path[-2]] = path[-1]

    return change


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


def test_a_folder_without_a_manifest_and_no_folder_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest.json cannot be read \(No such file"):
        open_artifact(tmp_path)
    with pytest.raises(ArtifactError, match="is no folder"):
        open_artifact(tmp_path / "missing")


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


def test_a_graph_with_other_operators_than_the_manifest_says_is_refused(folder: Path) -> None:
    edit(folder, set_at("graphs", "encoder", "op_counts", "Conv", 4))
    with pytest.raises(ArtifactError, match="other tensors or operators than its manifest says"):
        read_all(folder)


def test_a_graph_with_another_contract_is_refused_although_hashes_agree(folder: Path) -> None:
    put(folder, "encoder.onnx", small_graph(ENCODER.replace("high_res_features_0", "something_else")))
    with pytest.raises(ArtifactError, match="other tensors or operators"):
        read_all(folder)


def test_a_graph_with_external_data_is_refused_although_hashes_agree(folder: Path) -> None:
    def external(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL

    put(folder, "encoder.onnx", small_graph(ENCODER, external))
    with pytest.raises(ArtifactError, match="refused before it runs: a tensor's data lie outside the file"):
        read_all(folder)


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0/image.npy", bytes(golden_vectors.MAX_UNPACKED_BYTES + 1))
    return file.getvalue()


def with_pickle() -> bytes:
    file = io.BytesIO()
    np.savez(file, **{"0/image": np.array([Executed()], dtype=object)})  # type: ignore[arg-type]
    return file.getvalue()


class Executed:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return pytest.fail, ("a pickle was executed",)


def claims_more_than_it_has() -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 45,)})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("0/image.npy", header.getvalue())
    return file.getvalue()


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", pickle.dumps({"image": 1}), bomb(), with_pickle(), claims_more_than_it_has(), pack(())]
)
def test_a_golden_file_that_cannot_be_used_is_refused(folder: Path, data: bytes) -> None:
    put(folder, "golden.npz", data)
    with pytest.raises(ArtifactError, match=r"golden\.npz"):
        read_all(folder)


def test_golden_photos_are_read_back_exactly(original: Path) -> None:
    golden = open_artifact(original).read_golden()
    assert len(golden) == 2
    np.testing.assert_array_equal(golden[1].image, small_photo(2))
    np.testing.assert_array_equal(golden[0].prompts.point_labels, small_prompts().point_labels)
    assert golden[0].masks.shape == (2, 48, 40) and golden[0].masks.dtype == bool
    assert golden[0].masks.any() and not golden[0].masks.all()
    again = unpack(pack(golden), SPEC)
    assert all(map(np.array_equal, again[0].embedding_values, golden[0].embedding_values))


def test_a_runtime_that_computes_the_same_has_no_difference_to_the_golden_photos(original: Path) -> None:
    runtime = with_onnxruntime.load(original, 1)
    difference = compare(runtime, open_artifact(original).read_golden())
    assert difference.embedding <= 1e-4 and difference.logits <= 1e-4 and difference.iou_predictions <= 1e-6
    assert difference.mask_iou == 1.0


class Changed:
    """A runtime whose embeddings pass through a function first."""

    name = "changed"

    def __init__(self, inner: with_onnxruntime.OnnxRuntime, change: Callable[[Any], Any]) -> None:
        self.inner, self.change, self.spec = inner, change, inner.spec
        self.decode = inner.decode

    def encode(self, image: Any) -> Any:
        embedding = self.inner.encode(image)
        high_res = tuple(self.change(x) for x in embedding.high_res_features)
        return type(embedding)(self.change(embedding.image_embeddings), high_res)


@pytest.mark.parametrize(
    "change",
    [
        np.zeros_like,
        lambda x: np.full_like(x, np.nan),
        lambda x: x.astype(np.float16).astype(np.float32),
        lambda x: np.roll(x, 1, axis=3),
    ],
    ids=["constant", "nan", "half precision", "shifted"],
)
def test_the_canary_notices_wrong_embeddings(original: Path, change: Callable[[Any], Any]) -> None:
    runtime = with_onnxruntime.load(original, 1)
    golden = open_artifact(original).read_golden()
    check_embeddings(Changed(runtime, lambda x: x), golden)
    with pytest.raises(ArtifactError, match="computes other embeddings here"):
        check_embeddings(Changed(runtime, change), golden)


def test_a_folder_inside_may_be_named_but_not_be_a_link(folder: Path, tmp_path: Path) -> None:
    """A Core ML package is a folder; one that is a link could lead out of the artifact."""
    data = (folder / "encoder.onnx").read_bytes()
    (folder / "inner").mkdir()
    (folder / "inner" / "note").write_bytes(data)
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit(folder, lambda manifest: manifest["files"].update({"inner/note": facts}))
    assert open_artifact(folder).read_file("inner/note") == data
    (folder / "inner").rename(tmp_path / "outside")
    (folder / "inner").symlink_to(tmp_path / "outside")
    with pytest.raises(ArtifactError, match="inner is a link, expected a folder"):
        open_artifact(folder).read_file("inner/note")


def test_the_canary_notices_a_model_that_does_not_see_its_photos(tmp_path: Path) -> None:
    def erase(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            tensor.float_data[:] = [0.0] * len(tensor.float_data)

    blind = small_graph(ENCODER, erase)
    write_artifact(tmp_path / "draft", small_manifest(), small_files(encoder=blind))
    runtime = with_onnxruntime.load(tmp_path / "draft", 1, canary=False)
    golden = tuple(record(runtime, small_photo(seed), small_prompts()) for seed in (1, 2))
    with pytest.raises(ArtifactError, match="the same embedding for different photos"):
        check_embeddings(runtime, golden)


def test_a_check_that_fails_leaves_the_old_artifact_and_nothing_else(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()

    def refuse(draft: Artifact) -> None:
        assert open_artifact(draft.directory).manifest.licence == "changed"
        raise ExportError("masks differ")

    with pytest.raises(ExportError, match="masks differ"):
        write_artifact(folder, small_manifest(licence="changed"), small_files(), refuse)
    assert (folder / "manifest.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def test_graphs_that_would_not_load_are_not_written(tmp_path: Path) -> None:
    other = small_graph(ENCODER.replace("[1,2,16,16] high", "[1,2,16,17] high"))
    with pytest.raises(ExportError, match="encoder outputs are"):
        write_artifact(tmp_path / "small", small_manifest(), small_files(encoder=other))
    with pytest.raises(ExportError, match="it has no graph 'decoder'"):
        write_artifact(tmp_path / "small", small_manifest(), {"encoder.onnx": small_graph(ENCODER)})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_artifact_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(OutputError, match=r"holds no manifest\.json"):
        small_artifact(tmp_path)


def test_measured_quality_is_recorded_in_place(folder: Path) -> None:
    record_quality(folder, {"box_miou": 74.1})
    assert open_artifact(folder).manifest.quality == {"box_miou": 74.1}
    read_all(folder)
