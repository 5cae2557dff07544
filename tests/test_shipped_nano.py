"""The model in the wheel and the weights in the checkout: one model, drawn the same by both runtimes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import sam_edge
from sam_edge.artifact import open_artifact
from sam_edge.contract import Runtime
from sam_edge.everything import SamAutomaticMaskGenerator
from sam_edge.image import read_photo
from sam_edge.predictor import SamPredictor
from sam_edge.rle import rle_to_mask
from sam_edge.runtimes import ASSETS, available_models
from tests.sa1b import OUTLINES, PHOTOS, outline_mask

WEIGHTS = Path(__file__).parents[1] / "weights" / "nano.safetensors"
MAX_ARTIFACT_BYTES = 12_000_000
MAX_PARAMETERS = 4_000_000


@pytest.fixture(scope="module")
def onnx() -> Runtime:
    return sam_edge.load("nano", "onnx", threads=1)


@pytest.fixture(scope="module")
def torch() -> Runtime:
    return sam_edge.load("nano", "torch", threads=1)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def prompts(photo: str, low_res: NDArray[np.float32]) -> Iterator[dict[str, Any]]:
    """Every kind of prompt on every outlined object."""
    for name in OUTLINES[photo]:
        rows, columns = np.nonzero(outline_mask(photo, name))
        inside = [float(np.median(columns)), float(np.median(rows))]
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)
        click: dict[str, Any] = {"point_coords": np.array([inside]), "point_labels": np.array([1])}
        both = {"point_coords": np.array([inside, [2.0, 2.0]]), "point_labels": np.array([1, 0])}
        yield from (click, both, {"box": box}, click | {"box": box}, click | {"mask_input": low_res})


@pytest.mark.parametrize("photo", sorted(OUTLINES))
def test_torch_and_onnx_draw_the_same_masks_for_every_kind_of_prompt(onnx: Runtime, torch: Runtime, photo: str) -> None:
    ours, theirs = SamPredictor(onnx), SamPredictor(torch)
    picture = read_photo(PHOTOS / f"{photo}.jpg")
    ours.set_image(picture)
    theirs.set_image(picture)
    _, _, low_res = theirs.predict(np.array([[200.0, 150.0]]), np.array([1]), multimask_output=False)
    for prompt in prompts(photo, low_res):
        for multimask in (False, True):
            got, got_iou, _ = ours.predict(**prompt, multimask_output=multimask)
            expected, expected_iou, _ = theirs.predict(**prompt, multimask_output=multimask)
            assert min(iou(a, b) for a, b in zip(got, expected, strict=True)) >= 0.99, prompt
            assert got_iou == pytest.approx(expected_iou, abs=1e-4)


@pytest.mark.parametrize("size", [(4320, 7680), (700, 90), (90, 700), (40, 33), (1, 300)])
def test_torch_and_onnx_draw_the_same_masks_on_photos_of_every_shape(
    onnx: Runtime, torch: Runtime, size: tuple[int, int]
) -> None:
    picture = cv2.resize(read_photo(PHOTOS / "coffee.jpg"), size[::-1], interpolation=cv2.INTER_AREA)
    ours, theirs = SamPredictor(onnx), SamPredictor(torch)
    ours.set_image(picture)
    theirs.set_image(picture)
    middle, corner = np.array(size[::-1]) / 2, np.array(size[::-1]) * 0.9
    click: dict[str, Any] = {"point_coords": middle[None], "point_labels": np.array([1])}
    box = {"box": np.concatenate([np.array(size[::-1]) * 0.2, np.array(size[::-1]) * 0.8])}
    _, _, low_res = theirs.predict(**click, multimask_output=False)
    both = {"point_coords": np.stack([middle, corner]), "point_labels": np.array([1, 0])}
    for prompt in (click, both, box, click | box, click | {"mask_input": low_res}):
        got, _, _ = ours.predict(**prompt, multimask_output=False)
        expected, _, _ = theirs.predict(**prompt, multimask_output=False)
        assert got.shape == (1, *size)
        assert iou(got, expected) >= 0.99, prompt


def test_a_photo_is_segmented_where_no_connection_can_be_opened(tmp_path: Path) -> None:
    script = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('a connection was opened')\n"
        "socket.socket = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from sam_edge.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["segment", str(PHOTOS / "chelsea.jpg"), "--point", "240,100", "-o", str(tmp_path / "cat.png")]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cat.png").stat().st_size > 1000


def test_everything_mode_finds_the_same_masks_on_both_runtimes(onnx: Runtime, torch: Runtime) -> None:
    picture = read_photo(PHOTOS / "coffee.jpg")
    options: dict[str, Any] = {"points_per_side": 8, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.5}
    found = [
        SamAutomaticMaskGenerator(runtime, output_mode="uncompressed_rle", **options).generate(picture)
        for runtime in (onnx, torch)
    ]
    assert len(found[0]) == len(found[1]) > 3
    for a, b in zip(*found, strict=True):
        assert iou(rle_to_mask(a["segmentation"]), rle_to_mask(b["segmentation"])) >= 0.99


def test_a_mask_input_changes_what_the_shipped_model_draws(onnx: Runtime) -> None:
    predictor = SamPredictor(onnx)
    predictor.set_image(read_photo(PHOTOS / "coffee.jpg"))
    point = {"point_coords": np.array([[300.0, 200.0]]), "point_labels": np.array([1])}
    without, _, low_res = predictor.predict(**point, multimask_output=False)
    inverted, _, _ = predictor.predict(**point, mask_input=-low_res, multimask_output=False)
    assert iou(without[0], inverted[0]) < 0.95


def test_a_prompt_among_others_gives_the_mask_it_gives_alone(onnx: Runtime) -> None:
    predictor = SamPredictor(onnx)
    predictor.set_image(read_photo(PHOTOS / "astronaut.jpg"))
    coords = np.array([[[220.0, 330.0]], [[430.0, 60.0]], [[400.0, 430.0]], [[60.0, 60.0]]])
    labels = np.ones((4, 1))
    together, _, _ = predictor.predict_batch(coords, labels, multimask_output=True)
    for i in range(4):
        alone, _, _ = predictor.predict(coords[i], labels[i], multimask_output=True)
        assert all(iou(a, b) >= 0.99 for a, b in zip(together[i], alone, strict=True))


def test_the_artifact_is_small_came_from_these_weights_and_has_its_quality_written_down() -> None:
    artifact = open_artifact(ASSETS / "nano")
    assert artifact.size_bytes <= MAX_ARTIFACT_BYTES
    assert artifact.manifest.parameters <= MAX_PARAMETERS
    assert artifact.manifest.checkpoint_sha256 == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    (info,) = [model for model in available_models() if model.name == "nano"]
    assert {"box", "click"} <= {key.split("_")[1] for key in info.quality if key.startswith("cocoval_")}


def test_a_batch_of_any_size_gives_each_prompt_its_own_result(onnx: Runtime) -> None:
    """The runtime decodes large batches in parts: sizes around and far from the parts' agree with one by one."""
    predictor = SamPredictor(onnx)
    predictor.set_image(read_photo(PHOTOS / "coffee.jpg"))
    coords = np.random.default_rng(0).uniform(0, 400, size=(9, 1, 2))
    _, _, alone = zip(*(predictor.predict(c, np.ones(1)) for c in coords), strict=True)
    for count in (1, 4, 5, 9):
        _, _, together = predictor.predict_batch(coords[:count], np.ones((count, 1)))
        assert together.shape[0] == count
        np.testing.assert_allclose(together, np.stack(alone[:count]), atol=1e-3)
