"""The ONNX runtime: loading by name, folder and file, and what it refuses to compute."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import sam_edge
from sam_edge import runtimes
from sam_edge.artifact import open_artifact, write_artifact
from sam_edge.contract import Embedding, PromptTensors
from sam_edge.errors import ArtifactError, CheckpointError, ImageError, PromptError, RuntimeUnavailable
from sam_edge.runtimes import with_onnxruntime
from sam_edge.runtimes.with_onnxruntime import OnnxRuntime
from tests.model_inputs import random_clicks, random_image
from tests.small_artifact import (
    ENCODER,
    SPEC,
    small_artifact,
    small_files,
    small_graph,
    small_manifest,
    whole_artifact,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole artifact with golden photos."""
    return whole_artifact(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def runtime(folder: Path) -> OnnxRuntime:
    return with_onnxruntime.load(folder, 1)


def test_encode_computes_what_the_graph_says(runtime: OnnxRuntime) -> None:
    photo = random_image(SPEC)
    embedding = runtime.encode(photo)
    pooled = photo.reshape(3, 4, 16, 4, 16).mean((2, 4))
    weights = onnx.numpy_helper.to_array(onnx.parser.parse_model(ENCODER).graph.initializer[0])[:, :, 0, 0]
    expected = np.einsum("oc,chw->ohw", weights, pooled)[None]
    np.testing.assert_allclose(embedding.image_embeddings, expected, rtol=0, atol=1e-6)
    assert [x.shape for x in embedding.high_res_features] == [(1, 2, 16, 16), (1, 2, 8, 8)]


@pytest.mark.parametrize(("batch", "slots"), [(1, 1), (2, 3), (5, 7), (64, 2)])
def test_a_batch_of_prompts_gives_what_each_gives_alone(runtime: OnnxRuntime, batch: int, slots: int) -> None:
    embedding, all_prompts = runtime.encode(random_image(SPEC)), random_clicks(SPEC, batch, slots)
    together = runtime.decode(embedding, all_prompts)
    assert together.low_res_masks.shape == (batch, 4, 16, 16) and together.iou_predictions.shape == (batch, 4)
    rows = (getattr(all_prompts, field.name)[-1:] for field in dataclasses.fields(all_prompts))
    alone = runtime.decode(embedding, PromptTensors(*rows))
    np.testing.assert_allclose(together.low_res_masks[-1:], alone.low_res_masks, rtol=0, atol=1e-5)


def test_arrays_that_are_not_contiguous_are_taken(runtime: OnnxRuntime) -> None:
    flipped = random_image(SPEC)[:, :, :, ::-1]
    expected = runtime.encode(np.ascontiguousarray(flipped))
    np.testing.assert_array_equal(runtime.encode(flipped).image_embeddings, expected.image_embeddings)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((1, 3, 32, 32), np.float32), r"image has shape \(1, 3, 32, 32\), expected \(1, 3, 64, 64\)"),
        (np.zeros((2, 3, 64, 64), np.float32), "expected"),
        (np.zeros((1, 3, 64, 64)), "image has dtype float64, expected float32"),
    ],
)
def test_an_image_that_does_not_fit_says_so(runtime: OnnxRuntime, wrong: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        runtime.encode(wrong)


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        ("point_coords", (2, 3, 3)),
        ("point_labels", (2, 4)),
        ("point_labels", (1, 3)),
        ("mask_input", (2, 1, 64, 64)),
        ("has_mask_input", (2, 1)),
    ],
)
def test_prompt_tensors_that_do_not_fit_each_other_say_so(
    runtime: OnnxRuntime, field: str, shape: tuple[int, ...]
) -> None:
    wrong = dataclasses.replace(random_clicks(SPEC, 2, 3), **{field: np.zeros(shape, np.float32)})
    with pytest.raises(PromptError, match=rf"{field} has shape .* expected .* Use prompts\.build_prompts"):
        runtime.decode(runtime.encode(random_image(SPEC)), wrong)


def test_an_embedding_of_another_model_is_refused(runtime: OnnxRuntime) -> None:
    embedding = runtime.encode(random_image(SPEC))
    without = Embedding(embedding.image_embeddings)
    other = Embedding(np.zeros((1, 256, 4, 4), np.float32), embedding.high_res_features)
    for wrong, message in ((without, "has 1 tensors, expected 3"), (other, "image_embeddings has shape")):
        with pytest.raises(PromptError, match=rf"{message}.* Encode with small itself"):
            runtime.decode(wrong, random_clicks(SPEC, 1, 1))


def test_loading_compares_the_golden_photos(folder: Path, tmp_path: Path) -> None:
    golden = open_artifact(folder).read_golden()
    bright = tuple(dataclasses.replace(photo, image=255 - photo.image) for photo in golden)
    small_artifact(tmp_path / "small", bright)
    with pytest.raises(ArtifactError, match="small computes other embeddings here than where it was exported"):
        with_onnxruntime.load(tmp_path / "small", 1)


@pytest.mark.parametrize("change", [{"target": "openvino"}, {"precision": "float16"}])
def test_an_artifact_for_another_runtime_or_precision_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    manifest = small_artifact(tmp_path / "small").directory / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(ArtifactError, match="expected onnx in float32 or int8"):
        with_onnxruntime.load(tmp_path / "small", 1)


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "DoesNotExist"


def dangling_input(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


@pytest.mark.parametrize("change", [unknown_operator, dangling_input])
def test_a_graph_that_onnxruntime_refuses_gives_one_line(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None]
) -> None:
    write_artifact(tmp_path / "small", small_manifest(), small_files(encoder=small_graph(ENCODER, change)))
    with pytest.raises(ArtifactError, match="cannot load the encoder of") as caught:
        with_onnxruntime.load(tmp_path / "small", 1)
    assert "\n" not in str(caught.value)


def test_bytes_that_also_look_like_an_ort_file_are_read_as_the_onnx_model_that_was_checked(tmp_path: Path) -> None:
    # onnxruntime takes a file with ORTM at offset 4 for its own format. A producer name puts it there in an ONNX file.
    encoder = bytes([0x08, 10, 0x12, 4]) + b"ORTM" + small_graph(ENCODER)[2:]
    assert onnx.load_from_string(encoder).producer_name == "ORTM"
    write_artifact(tmp_path / "small", small_manifest(), small_files(encoder=encoder))
    runtime = with_onnxruntime.load(tmp_path / "small", 1, canary=False)
    assert runtime.encode(random_image(SPEC)).image_embeddings.shape == (1, 4, 4, 4)


def test_a_folder_loads_with_its_runtime_and_a_path_object_too(folder: Path) -> None:
    for model in (str(folder), folder):
        loaded = sam_edge.load(model, threads=1)
        assert (loaded.name, loaded.spec) == ("onnx", SPEC)


def test_a_name_is_looked_up_inside_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "ASSETS", folder.parent)
    assert sam_edge.load("small", "onnx", threads=1).spec == SPEC
    listed = {info.name: info for info in runtimes.available_models()}
    assert listed["small"].on_disk and listed["small"].parameters == 18 and listed["small"].image_size == 64
    assert listed["small"].bytes == open_artifact(folder).size_bytes
    assert not listed["vit_h"].on_disk and listed["vit_h"].checkpoint == "sam_vit_h_4b8939.pth"


def test_a_name_cannot_leave_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runtimes, "ASSETS", folder.parent / "draft")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"there is no model '\.\./small'"):
        sam_edge.load("../small")


def test_models_that_are_not_here_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"Download sam_vit_b_01ec64\.pth from its authors"):
        sam_edge.load("vit_b")
    with pytest.raises(ArtifactError, match=r"there is no model 'nanoo': .* vit_b, vit_l, vit_h, vit_t"):
        sam_edge.load("nanoo")
    with pytest.raises(ArtifactError, match="is a checkpoint, and ONNX Runtime needs an artifact folder"):
        sam_edge.load("weights.pth", "onnx")
    with pytest.raises(CheckpointError, match="is not there"):
        sam_edge.load(tmp_path / "missing.pth")
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read"):
        sam_edge.load(tmp_path)


def test_unknown_runtimes_and_thread_counts_are_refused() -> None:
    with pytest.raises(
        RuntimeUnavailable,
        match="'tensorrt' is not known, expected one of: auto, onnx, openvino, tflite, coreml, torch",
    ):
        sam_edge.load("nano", "tensorrt")
    with pytest.raises(RuntimeUnavailable, match="threads is -1"):
        sam_edge.load("nano", threads=-1)


def test_a_missing_onnxruntime_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnavailable, match="pip install onnxruntime"):
        with_onnxruntime.load(folder, 1)


def test_public_parameter_counts_are_those_of_the_models() -> None:
    torch = pytest.importorskip("torch")
    from sam_edge.model.registry import build_model

    for name, info in runtimes.PUBLIC_MODELS.items():
        with torch.device("meta"):
            model = build_model(name)
        assert sum(parameter.numel() for parameter in model.parameters()) == info.parameters
        assert model.spec.image_size == info.image_size


def test_importing_the_package_imports_no_library() -> None:
    script = (
        "import sys, sam_edge\n"
        "assert not {'numpy', 'onnxruntime', 'PIL', 'cv2', 'torch'} & sys.modules.keys()\n"
        "assert sam_edge.__version__ and sam_edge.PromptError and 'numpy' not in sys.modules\n"
        "sam_edge.load\n"
        "assert not {'onnxruntime', 'torch'} & sys.modules.keys()\n"
        "assert all(getattr(sam_edge, name) is not None for name in sam_edge.__all__)\n"
        "assert set(sam_edge.__all__) <= set(dir(sam_edge))\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'predict'"):
        sam_edge.predict  # noqa: B018
