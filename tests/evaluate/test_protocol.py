"""The evaluation loop over a real data set and a real, if tiny, ONNX model, whose prompts are watched."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from sam_edge.contract import (
    LABEL_FOREGROUND,
    LABEL_PADDING,
    Embedding,
    Float32,
    ModelSpec,
    Prediction,
    PromptTensors,
    Runtime,
)
from sam_edge.errors import DataError
from sam_edge.evaluate import baselines, simulate
from sam_edge.evaluate.dataset import Record, open_records
from sam_edge.evaluate.metrics import mask_iou
from sam_edge.evaluate.protocol import DEFAULT_KINDS, KINDS, NOC_LIMIT, Evaluation, evaluate
from sam_edge.image import resized_size
from sam_edge.masks import upscale_masks
from sam_edge.runtimes import with_onnxruntime
from tests.sa1b import OUTLINES, outline_mask, write_set, write_tar
from tests.small_artifact import small_artifact


@dataclass
class Watched:
    """A runtime that keeps what it was asked and what it answered."""

    inner: Runtime
    name: str = "watched"
    images: int = 0
    asked: list[PromptTensors] = field(default_factory=list)
    answered: list[Prediction] = field(default_factory=list)

    @property
    def spec(self) -> ModelSpec:
        return self.inner.spec

    def encode(self, image: Float32) -> Embedding:
        self.images += 1
        return self.inner.encode(image)

    def decode(self, embedding: Embedding, prompts: PromptTensors) -> Prediction:
        self.asked.append(prompts)
        self.answered.append(self.inner.decode(embedding, prompts))
        return self.answered[-1]


@dataclass
class Knowing:
    """A runtime that answers every prompt with one fixed answer: the single mask `logits` and three alternatives."""

    spec: ModelSpec
    logits: Float32  # (4, S/4, S/4)
    ious: Float32  # (4,)
    name: str = "knowing"
    prompts: int = 0

    def encode(self, image: Float32) -> Embedding:
        return Embedding(np.zeros((1, 4, 4, 4), np.float32))

    def decode(self, embedding: Embedding, prompts: PromptTensors) -> Prediction:
        count = len(prompts.point_coords)
        self.prompts += count
        return Prediction(np.repeat(self.logits[None], count, 0), np.repeat(self.ious[None], count, 0))


@pytest.fixture
def runtime(tmp_path: Path) -> Watched:
    small_artifact(tmp_path / "small")
    return Watched(with_onnxruntime.load(tmp_path / "small", 1, canary=False))


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    return open_records([write_set(tmp_path / "set")])


def test_every_object_is_scored_once_under_every_kind(runtime: Watched, records: list[Record]) -> None:
    seen: list[int] = []
    result = evaluate(runtime, records, kinds=KINDS, on_photo=lambda so_far: seen.append(so_far.objects))
    objects = sum(len(outlines) for outlines in OUTLINES.values())
    assert (result.photos, result.objects, seen[-1]) == (3, objects, objects)
    for kind in (*DEFAULT_KINDS, "click-multi", "click-oracle", *baselines.BASELINES):
        assert len({score.object_id for score in result.of(kind)}) == len(result.of(kind)) == objects, kind
    assert len(result.click_counts) == objects
    assert runtime.images == 3, "a photo is encoded once for all its prompts"


def test_a_baseline_is_scored_against_the_truth(runtime: Watched, records: list[Record]) -> None:
    result = evaluate(runtime, records, kinds=("box",))
    cat = next(score for score in result.of("ellipse in box") if score.object_id == 20 - 10)
    truth = outline_mask("chelsea", "cat")
    assert cat.iou == mask_iou(truth, baselines.ellipse_in_box(simulate.tight_box(truth), truth.shape))
    assert cat.size == "large"
    assert result.mean_iou("ellipse in box") == pytest.approx(np.mean([s.iou for s in result.of("ellipse in box")]))


def test_folder_and_tar_give_the_same_scores(runtime: Watched, records: list[Record], tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "set-000.tar", tmp_path / "set")
    from_folder = evaluate(runtime, records, kinds=("box", "click"), free_baselines=False)
    from_tar = evaluate(runtime, open_records([tar]), kinds=("box", "click"), free_baselines=False)
    assert [(s.kind, s.object_id, s.iou) for s in from_folder.scores] == [
        (s.kind, s.object_id, s.iou) for s in from_tar.scores
    ]


def test_only_what_is_asked_for_is_computed(runtime: Watched, records: list[Record]) -> None:
    result = evaluate(runtime, records[:1], kinds=("box",), free_baselines=False)
    assert {score.kind for score in result.scores} == {"box"}
    assert len(runtime.asked) == 1


def test_boxes_and_clicks_reach_the_model_in_its_own_pixels(runtime: Watched, records: list[Record]) -> None:
    evaluate(runtime, records[:1], kinds=("box", "click"), free_baselines=False)
    truth = outline_mask("astronaut", "person")  # 512 x 512, the model sees 64 x 64
    boxes, clicks = runtime.asked
    np.testing.assert_allclose(boxes.point_coords[0].reshape(4), simulate.tight_box(truth) / 8)
    assert boxes.point_labels[0].tolist() == [2, 3]
    click = simulate.first_click(truth)
    np.testing.assert_allclose(clicks.point_coords[0, 0], [click.x / 8, click.y / 8])
    assert clicks.point_labels[0].tolist() == [LABEL_FOREGROUND, LABEL_PADDING]


def test_corrections_feed_back_the_single_masks_logits(runtime: Watched, records: list[Record]) -> None:
    evaluate(runtime, records[:1], kinds=("click3",), free_baselines=False)
    assert [prompts.point_coords.shape[1] for prompts in runtime.asked] == [2, 3, 4]  # clicks and SAM's padding point
    assert [prompts.has_mask_input.tolist() for prompts in runtime.asked] == [[0] * 3, [1] * 3, [1] * 3]
    for before, after in zip(runtime.answered[:2], runtime.asked[1:], strict=True):
        np.testing.assert_array_equal(after.mask_input[:, 0], before.low_res_masks[:, 0])
    for earlier, later in zip(runtime.asked[:2], runtime.asked[1:], strict=True):
        clicks = earlier.point_coords.shape[1] - 1
        np.testing.assert_array_equal(later.point_coords[:, :clicks], earlier.point_coords[:, :clicks])


def test_the_second_click_corrects_the_mask_of_the_first(runtime: Watched, records: list[Record]) -> None:
    evaluate(runtime, records[:1], kinds=("click3",), free_baselines=False)
    size = (512, 512)
    for index, name in enumerate(OUTLINES["astronaut"]):
        truth = outline_mask("astronaut", name)
        drawn = upscale_masks(runtime.answered[0].low_res_masks[index, 0], 64, resized_size(size, 64), size)
        expected = simulate.correction_click(truth, drawn, [simulate.first_click(truth)])
        assert expected is not None
        np.testing.assert_allclose(runtime.asked[1].point_coords[index, 1], [expected.x / 8, expected.y / 8])
        assert runtime.asked[1].point_labels[index, 1] == expected.label


def test_a_mask_prompt_comes_with_the_click(runtime: Watched, records: list[Record]) -> None:
    evaluate(runtime, records[:1], kinds=("mask",), free_baselines=False)
    (prompts,) = runtime.asked
    assert prompts.has_mask_input.all()
    assert set(np.unique(prompts.mask_input)) == {-8, 8}
    assert prompts.point_labels[0].tolist() == [LABEL_FOREGROUND, LABEL_PADDING]


def knowing_set(folder: Path, logits: Float32) -> tuple[ModelSpec, list[Record]]:
    """A photo of 64 x 64 whose one object is exactly the mask of `logits` (16, 16)."""
    from PIL import Image
    from pycocotools import mask as coco_mask

    truth = upscale_masks(logits, 64, (64, 64), (64, 64))
    folder.mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "one.jpg")
    rle = coco_mask.encode(np.asfortranarray(truth.astype(np.uint8)))
    segmentation = {"size": [64, 64], "counts": rle["counts"].decode()}
    annotation = {"id": 1, "area": int(truth.sum()), "segmentation": segmentation}
    (folder / "one.json").write_text(json.dumps({"image": {"width": 64, "height": 64}, "annotations": [annotation]}))
    return ModelSpec("knowing", 64, 4), open_records([folder])


def test_a_model_that_knows_the_answer_scores_one_and_is_never_corrected(tmp_path: Path) -> None:
    y, x = np.mgrid[:16, :16]
    right = (6.0 - np.hypot(x - 8, y - 7)).astype(np.float32)
    wrong = -np.ones_like(right)
    spec, records = knowing_set(tmp_path / "set", right)
    runtime = Knowing(spec, np.stack([right, wrong, right, wrong]), np.array([0.5, 0.9, 0.8, 0.1], np.float32))
    result = evaluate(runtime, records, kinds=KINDS, free_baselines=False)
    for kind in ("box", "box-jitter", "click", "click3", "mask", "click-oracle"):
        assert result.mean_iou(kind) == 1, kind
        assert result.of(kind)[0].boundary_iou == 1
    assert result.mean_iou("click-multi") == 0, "the best by predicted IoU is a wrong mask here"
    assert [s.predicted_iou for k in ("click", "click-multi", "click-oracle") for s in result.of(k)] == pytest.approx(
        [0.5, 0.9, 0.8]
    )
    assert result.click_counts[0].clicks_to == {0.85: 1, 0.90: 1}
    assert runtime.prompts == 4, "box, box-jitter, click and mask: no correction"


def test_an_object_that_is_never_found_takes_all_clicks(tmp_path: Path) -> None:
    y, x = np.mgrid[:16, :16]
    spec, records = knowing_set(tmp_path / "set", (6.0 - np.hypot(x - 8, y - 7)).astype(np.float32))
    runtime = Knowing(spec, -np.ones((4, 16, 16), np.float32), np.zeros(4, np.float32))
    result = evaluate(runtime, records, kinds=("noc",), free_baselines=False)
    assert result.click_counts[0].clicks_to == {}
    assert runtime.prompts == NOC_LIMIT
    assert not result.scores, "noc alone gives no mIoU"


def test_objects_below_100_px_are_left_out(tmp_path: Path) -> None:
    y, x = np.mgrid[:16, :16]
    spec, records = knowing_set(tmp_path / "set", (1.2 - np.hypot(x - 8, y - 7)).astype(np.float32))
    runtime = Knowing(spec, np.zeros((4, 16, 16), np.float32), np.zeros(4, np.float32))
    result = evaluate(runtime, records)
    assert (result.photos, result.objects, runtime.prompts) == (1, 0, 0)
    assert np.isnan(result.mean_iou("box"))


def test_masks_of_another_size_than_the_photo_are_named(
    runtime: Watched, records: list[Record], tmp_path: Path
) -> None:
    (tmp_path / "set" / "chelsea.jpg").write_bytes((tmp_path / "set" / "coffee.jpg").read_bytes())
    with pytest.raises(
        DataError, match=r"chelsea.*object \d+ has a mask of \(300, 451\) .* on a photo of \(400, 600\)"
    ):
        evaluate(runtime, open_records([tmp_path / "set"]), kinds=("box",), free_baselines=False)


def test_masks_are_kept_only_for_the_kinds_that_are_asked_for(runtime: Watched, records: list[Record]) -> None:
    result: Evaluation = evaluate(runtime, records[:1], kinds=("box", "click"), keep_masks=("click",))
    assert all(score.rle is not None for score in result.of("click"))
    assert all(score.rle is None for score in result.of("box"))
