"""The TFLite runtime on a model written by hand: sizes that the file fixes, and what it refuses to compute."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sam_edge
from sam_edge.artifact import open_artifact, write_artifact
from sam_edge.contract import LABEL_EMPTY, LABEL_FOREGROUND, Embedding, PromptTensors
from sam_edge.errors import ArtifactError, ImageError, PromptError, RuntimeUnavailable
from sam_edge.golden_vectors import pack, record
from sam_edge.runtimes import with_tflite
from sam_edge.runtimes.with_tflite import TFLiteRuntime
from tests.model_inputs import random_clicks, random_image
from tests.small_artifact import SPEC, small_artifact, small_manifest, small_photo, small_prompts
from tests.small_tflite import FACTORS, NARROW, WIDE, read, small_decoder, small_encoder, write

SIZES = {"prompts": [1, 4], "points": [2, 6]}


def small_files(sizes: dict[str, list[int]] = SIZES) -> dict[str, bytes]:
    pairs = [(prompts, points) for prompts in sizes["prompts"] for points in sizes["points"]]
    return {"encoder.tflite": small_encoder(), "decoder.tflite": small_decoder(pairs)}


def write_small(folder: Path, files: dict[str, bytes], golden: Any = (), **changes: Any) -> Path:
    manifest = small_manifest(**({"target": "tflite", "fixed_sizes": SIZES} | changes))
    write_artifact(folder, manifest, files | {"golden.npz": pack(golden)})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole artifact with golden photos."""
    parent = tmp_path_factory.mktemp("models")
    draft = with_tflite.load(write_small(parent / "draft", small_files()), 1, canary=False)
    golden = tuple(record(draft, small_photo(seed), small_prompts()) for seed in (1, 2))
    return write_small(parent / "small", small_files(), golden)


@pytest.fixture(scope="module")
def runtime(folder: Path) -> TFLiteRuntime:
    return with_tflite.load(folder, 1)


def by_hand(photo: Any, asked: PromptTensors) -> Any:
    """low_res_masks, from what small_tflite says of itself."""
    pooled = [photo.reshape(3, n, 64 // n, n, 64 // n).mean((2, 4)) for n in (16, 8, 4)]
    fine, middle, deep = (
        np.einsum("oc,chw->ohw", weights, x) for weights, x in zip((NARROW, NARROW, WIDE), pooled, strict=True)
    )
    votes = (asked.point_coords.sum(2) / 64 * np.maximum(asked.point_labels, 0)).sum(1)
    logits = asked.mask_input * asked.has_mask_input[:, None, None, None] + votes[:, None, None, None]
    return (logits + fine.mean(0) + deep.mean() + middle.mean()) * FACTORS[None, :, None, None]


def test_encode_computes_what_the_graph_says(runtime: TFLiteRuntime) -> None:
    photo = random_image(SPEC)
    embedding = runtime.encode(photo)
    pooled = photo.reshape(3, 4, 16, 4, 16).mean((2, 4))
    expected = np.einsum("oc,chw->ohw", WIDE, pooled)[None]
    np.testing.assert_allclose(embedding.image_embeddings, expected, rtol=0, atol=1e-6)
    assert [x.shape for x in embedding.high_res_features] == [(1, 2, 16, 16), (1, 2, 8, 8)]


@pytest.mark.parametrize("slots", [1, 2, 3, 6])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 7, 9])
def test_any_number_of_prompts_and_points_gives_what_the_graph_says(
    runtime: TFLiteRuntime, batch: int, slots: int
) -> None:
    photo, asked = random_image(SPEC), random_clicks(SPEC, batch, slots)
    got = runtime.decode(runtime.encode(photo), asked)
    assert got.low_res_masks.shape == (batch, 4, 16, 16) and got.iou_predictions.shape == (batch, 4)
    np.testing.assert_allclose(got.low_res_masks, by_hand(photo[0], asked), rtol=0, atol=1e-4)
    alone = [
        runtime.decode(
            runtime.encode(photo), PromptTensors(*(x[i : i + 1] for x in vars(asked).values()))
        ).iou_predictions
        for i in range(batch)
    ]
    np.testing.assert_allclose(got.iou_predictions, np.concatenate(alone), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sizes", [{"prompts": [4], "points": [6]}, {"prompts": [2, 3], "points": [2, 6]}])
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 6])
def test_parts_are_filled_with_repeats_where_no_size_is_small_enough(
    sizes: dict[str, list[int]], batch: int, tmp_path: Path
) -> None:
    folder = write_small(tmp_path / "small", small_files(sizes), fixed_sizes=sizes)
    runtime = with_tflite.load(folder, 1, canary=False)
    photo, asked = random_image(SPEC), random_clicks(SPEC, batch, 3)
    got = runtime.decode(runtime.encode(photo), asked)
    np.testing.assert_allclose(got.low_res_masks, by_hand(photo[0], asked), rtol=0, atol=1e-4)


def test_slots_are_filled_with_the_label_of_an_empty_one(
    runtime: TFLiteRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding, seen = runtime.encode(random_image(SPEC)), []
    run = runtime._decode[1, 6]

    def spy(**feeds: Any) -> Any:
        seen.append(feeds)
        return run(**feeds)

    monkeypatch.setitem(runtime._decode, (1, 6), spy)
    runtime.decode(embedding, random_clicks(SPEC, 1, 4))
    assert seen[0]["point_labels"].tolist() == [[LABEL_FOREGROUND] * 4 + [LABEL_EMPTY] * 2]
    assert not seen[0]["point_coords"][0, 4:].any()


def test_more_points_than_the_file_takes_are_refused_with_what_to_do(runtime: TFLiteRuntime) -> None:
    with pytest.raises(
        PromptError, match=r"a prompt has 7 points .* expected at most 6 .* export it with larger sizes"
    ):
        runtime.decode(runtime.encode(random_image(SPEC)), random_clicks(SPEC, 2, 7))


def test_what_a_caller_gets_is_his_to_keep(runtime: TFLiteRuntime) -> None:
    embedding = runtime.encode(random_image(SPEC))
    before = embedding.image_embeddings.copy()
    first = runtime.decode(embedding, random_clicks(SPEC, 1, 2))
    kept = first.low_res_masks.copy()
    runtime.encode(-random_image(SPEC))
    runtime.decode(embedding, random_clicks(SPEC, 1, 1))
    np.testing.assert_array_equal(embedding.image_embeddings, before)
    np.testing.assert_array_equal(first.low_res_masks, kept)


def test_arrays_that_are_not_contiguous_are_taken(runtime: TFLiteRuntime) -> None:
    flipped = random_image(SPEC)[:, :, :, ::-1]
    expected = runtime.encode(np.ascontiguousarray(flipped))
    np.testing.assert_array_equal(runtime.encode(flipped).image_embeddings, expected.image_embeddings)


def test_tensors_that_do_not_fit_say_so(runtime: TFLiteRuntime) -> None:
    with pytest.raises(ImageError, match=r"image has shape \(1, 3, 32, 32\), expected \(1, 3, 64, 64\)"):
        runtime.encode(np.zeros((1, 3, 32, 32), np.float32))
    embedding = runtime.encode(random_image(SPEC))
    wrong = dataclasses.replace(random_clicks(SPEC, 2, 2), point_labels=np.zeros((1, 2), np.float32))
    with pytest.raises(PromptError, match="point_labels has shape"):
        runtime.decode(embedding, wrong)
    with pytest.raises(PromptError, match="has 1 tensors, expected 3"):
        runtime.decode(Embedding(embedding.image_embeddings), random_clicks(SPEC, 1, 1))


def test_loading_compares_the_golden_photos(folder: Path, tmp_path: Path) -> None:
    golden = open_artifact(folder).read_golden()
    bright = tuple(dataclasses.replace(photo, image=255 - photo.image) for photo in golden)
    other = write_small(tmp_path / "small", small_files(), bright)
    with pytest.raises(ArtifactError, match="small computes other embeddings here than where it was exported"):
        with_tflite.load(other, 1)


def test_the_folder_loads_by_its_own_target_and_its_threads_are_taken(folder: Path) -> None:
    for threads in (0, 2):
        loaded = sam_edge.load(folder, threads=threads)
        assert (loaded.name, loaded.spec) == ("tflite", SPEC)


def test_an_artifact_for_another_runtime_is_refused(tmp_path: Path) -> None:
    small_artifact(tmp_path / "small")
    with pytest.raises(ArtifactError, match="is for onnx in float32, expected tflite"):
        with_tflite.load(tmp_path / "small", 1)


def test_a_changed_file_is_refused_before_it_is_parsed(folder: Path, tmp_path: Path) -> None:
    copy = write_small(tmp_path / "small", small_files(), open_artifact(folder).read_golden())
    data = bytearray((copy / "decoder.tflite").read_bytes())
    data[-1] ^= 1
    (copy / "decoder.tflite").write_bytes(data)
    with pytest.raises(ArtifactError, match="is not the file of its manifest"):
        with_tflite.load(copy, 1)


@pytest.mark.parametrize("said", [{}, {"prompts": [1], "points": [2, 6]}, {"prompts": [1, 4], "points": [2, 8]}])
def test_sizes_other_than_the_manifests_are_refused(said: dict[str, list[int]], tmp_path: Path) -> None:
    folder = write_small(tmp_path / "small", small_files(), fixed_sizes=said)
    with pytest.raises(ArtifactError, match=r"has a decoder for \[1, 4\] prompts of \[2, 6\] points, but its manifest"):
        with_tflite.load(folder, 1, canary=False)


def test_a_graph_that_litert_refuses_gives_one_line(tmp_path: Path) -> None:
    model = read(small_encoder())
    mix = next(o for o in model.subgraphs[0].operators if type(o.builtinOptions).__name__ == "Conv2DOptionsT")
    mix.inputs = [0, *mix.inputs[1:]]  # the photo itself, of other channels than the weights
    folder = write_small(tmp_path / "small", small_files() | {"encoder.tflite": write(model)})
    with pytest.raises(ArtifactError, match="LiteRT cannot load the encoder of") as caught:
        with_tflite.load(folder, 1)
    assert "\n" not in str(caught.value)


def test_without_litert_it_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", None)
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'sam-edge\[tflite\]'"):
        with_tflite.load(folder, 1)


def test_the_older_library_serves_where_only_that_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ai_edge_litert.interpreter as library

    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", library)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", library)
    assert with_tflite.load(folder, 1).spec == SPEC
