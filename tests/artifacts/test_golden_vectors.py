"""Golden photos inside an artifact: read back exactly, never executed, and a canary for wrong embeddings."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from sam_edge import golden_vectors
from sam_edge.artifact import open_artifact, write_artifact
from sam_edge.errors import ArtifactError
from sam_edge.golden_vectors import check_embeddings, compare, pack, record, unpack
from sam_edge.runtimes import with_onnxruntime
from tests.artifacts.artifact_files import put, read_all
from tests.small_artifact import (
    ENCODER,
    SPEC,
    small_files,
    small_graph,
    small_manifest,
    small_photo,
    small_prompts,
)


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
