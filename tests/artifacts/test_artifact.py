"""Artifact folders: written whole, read back checked, refused when anything in them differs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest

from sam_edge import manifest_json
from sam_edge.artifact import Artifact, open_artifact, record_quality, write_artifact
from sam_edge.contract import ModelSpec
from sam_edge.errors import ArtifactError, ExportError, OutputError
from sam_edge.manifest import contract_tensors
from tests.artifacts.artifact_files import edit, put, read_all, set_at
from tests.small_artifact import ENCODER, SPEC, small_artifact, small_files, small_graph, small_manifest


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


def test_a_folder_without_a_manifest_and_no_folder_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest.json cannot be read \(No such file"):
        open_artifact(tmp_path)
    with pytest.raises(ArtifactError, match="is no folder"):
        open_artifact(tmp_path / "missing")


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
