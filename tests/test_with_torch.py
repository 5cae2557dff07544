"""The torch runtime: the contract's two calls over the model itself."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sam_edge import runtimes
from sam_edge.contract import LABEL_FOREGROUND, LABEL_PADDING, Embedding, ModelSpec, PromptTensors
from sam_edge.errors import CheckpointError, ImageError, PromptError, RuntimeUnavailable
from sam_edge.model.checkpoints import NANO_WEIGHTS, save_checkpoint
from sam_edge.runtimes.with_torch import TorchRuntime, load
from tests.model_inputs import random_image
from tests.tiny_models import TINY_CONFIGS, tiny_model


def point_prompts(spec: ModelSpec, count: int = 2) -> PromptTensors:
    coords = np.random.default_rng(1).uniform(0, spec.image_size, (count, 2, 2)).astype(np.float32)
    labels = np.tile(np.array([LABEL_FOREGROUND, LABEL_PADDING], np.float32), (count, 1))
    mask_input = np.zeros((count, 1, spec.mask_size, spec.mask_size), np.float32)
    return PromptTensors(coords, labels, mask_input, np.zeros(count, np.float32))


@pytest.fixture
def runtime() -> TorchRuntime:
    return TorchRuntime(tiny_model("nano"))


@pytest.mark.parametrize("kind", sorted(TINY_CONFIGS))
def test_encode_and_decode_return_the_contracts_arrays_and_the_models_values(kind: str) -> None:
    model = tiny_model(kind)
    runtime = TorchRuntime(model)
    spec, image, prompts = runtime.spec, random_image(runtime.spec), point_prompts(runtime.spec, count=3)
    embedding = runtime.encode(image)
    prediction = runtime.decode(embedding, prompts)
    side = spec.embedding_size
    assert embedding.image_embeddings.shape == (1, spec.embedding_channels, side, side)
    assert [x.shape[1] for x in embedding.high_res_features] == list(spec.high_res_channels)
    assert prediction.low_res_masks.shape == (3, 4, spec.mask_size, spec.mask_size)
    assert prediction.iou_predictions.shape == (3, 4)
    with torch.inference_mode():
        rows = [torch.from_numpy(getattr(prompts, field.name)) for field in dataclasses.fields(prompts)]
        masks, iou = model.decode(model.encode(torch.from_numpy(image)), *rows)
    np.testing.assert_array_equal(prediction.low_res_masks, masks.numpy())
    np.testing.assert_array_equal(prediction.iou_predictions, iou.numpy())
    arrays = [
        embedding.image_embeddings,
        *embedding.high_res_features,
        prediction.low_res_masks,
        prediction.iou_predictions,
    ]
    assert {type(x) for x in arrays} == {np.ndarray} and {x.dtype for x in arrays} == {np.dtype(np.float32)}


def test_checkpoint_file_loads_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(tiny_model("vit"), path)
    for runtime in (load(path), runtimes.load(path), runtimes.load(str(path), runtime="torch")):
        assert (runtime.name, runtime.spec) == ("torch", TINY_CONFIGS["vit"].spec)
    with pytest.raises(CheckpointError, match="is not there"):
        runtimes.load(tmp_path / "absent.pth")


def test_what_is_loaded_of_a_name_is_the_artifact_but_for_torch_the_weights(tmp_path: Path) -> None:
    assert runtimes.loaded_path("nano", "onnx") == runtimes.artifact_folder("nano")
    assert runtimes.loaded_path("nano", "torch") == NANO_WEIGHTS
    mine = tmp_path / "mine.safetensors"
    save_checkpoint(tiny_model("nano"), mine)
    assert runtimes.loaded_path(mine, "torch") == mine
    with pytest.raises(CheckpointError, match="has no weights in this package"):
        runtimes.loaded_path("vit_b", "torch")


def test_threads_are_set_when_given_and_left_alone_otherwise() -> None:
    before = torch.get_num_threads()
    try:
        TorchRuntime(tiny_model("vit"), threads=before + 1)
        assert torch.get_num_threads() == before + 1
        TorchRuntime(tiny_model("vit"))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_prompts_that_need_no_copy_are_not_changed(runtime: TorchRuntime) -> None:
    image, prompts = random_image(runtime.spec), point_prompts(runtime.spec)
    copies = [image.copy(), prompts.point_coords.copy(), prompts.point_labels.copy(), prompts.mask_input.copy()]
    runtime.decode(runtime.encode(image), prompts)
    for got, want in zip((image, prompts.point_coords, prompts.point_labels, prompts.mask_input), copies, strict=True):
        np.testing.assert_array_equal(got, want)


def test_image_of_another_side_or_dtype_is_refused(runtime: TorchRuntime) -> None:
    image = random_image(runtime.spec)
    with pytest.raises(ImageError, match=r"image has shape \(1, 3, 48, 64\), expected \(1, 3, 64, 64\)"):
        runtime.encode(image[:, :, :48])
    with pytest.raises(ImageError, match="image has dtype float64, expected float32"):
        runtime.encode(image.astype(np.float64))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"point_coords": p.point_coords[0]}, "point_coords has shape"),
        (lambda p: {"point_labels": p.point_labels[:1]}, "point_labels has shape"),  # broadcasting would take it
        (lambda p: {"mask_input": p.mask_input[:1]}, "mask_input has shape"),
        (lambda p: {"mask_input": p.mask_input[..., :8]}, "mask_input has shape"),
        (lambda p: {"has_mask_input": p.has_mask_input[:1]}, "has_mask_input has shape"),
        (lambda p: {"point_labels": p.point_labels.astype(np.int64)}, "point_labels has dtype int64, expected float32"),
    ],
)
def test_prompts_of_wrong_shapes_or_dtypes_are_refused(runtime: TorchRuntime, change: Any, message: str) -> None:
    embedding, prompts = runtime.encode(random_image(runtime.spec)), point_prompts(runtime.spec)
    with pytest.raises(PromptError, match=message):
        runtime.decode(embedding, dataclasses.replace(prompts, **change(prompts)))


def test_embedding_of_another_model_is_refused(runtime: TorchRuntime) -> None:
    other = TorchRuntime(tiny_model("vit"))
    embedding, prompts = other.encode(random_image(other.spec)), point_prompts(runtime.spec)
    with pytest.raises(PromptError, match=r"has 1 tensors, expected 3\. Encode with tiny-nano itself"):
        runtime.decode(embedding, prompts)
    own = runtime.encode(random_image(runtime.spec))
    swapped = Embedding(own.image_embeddings, own.high_res_features[::-1])
    with pytest.raises(PromptError, match="high_res_features_0 has shape"):
        runtime.decode(swapped, prompts)


@pytest.mark.parametrize("device", ["cuda:99", "toaster"])
def test_device_that_is_not_here_is_refused(device: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=f"device '{device}' cannot be used"):
        TorchRuntime(tiny_model("vit"), device=device)


def test_without_torch_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'sam-edge\[torch\]'"):
        load("nano")
