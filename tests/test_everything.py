"""Everything mode against the original's, over the torch runtime with the golden weights of vit_mini."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from sam_edge.contract import Embedding, Float32, ModelSpec, Prediction, PromptTensors
from sam_edge.errors import ImageError, PromptError
from sam_edge.everything import SamAutomaticMaskGenerator
from sam_edge.rle import Rle, coco_to_mask, mask_to_rle, rle_to_mask
from sam_edge.runtimes.with_torch import TorchRuntime
from tests.golden_data import golden, golden_meta, inputs
from tests.golden_models import golden_model

GOLDEN = golden("amg")
CONFIGS = golden_meta("amg")["configs"]
MOVED_PIXELS = 10  # of a mask; the original itself moves 1 with another number of threads


@pytest.fixture(scope="module")
def mini() -> Iterator[TorchRuntime]:
    threads = torch.get_num_threads()
    yield TorchRuntime(golden_model("vit_mini"), threads=1)
    torch.set_num_threads(threads)


def golden_masks(config: str) -> list[np.ndarray[Any, Any]]:
    """The configuration's masks at the photo's size."""
    height, width = inputs.IMAGE_SIZES[CONFIGS[config]["image"]]
    ends = GOLDEN[f"{config}/rle_lengths"].cumsum()[:-1]
    runs = np.split(GOLDEN[f"{config}/rle_counts"], ends) if len(GOLDEN[f"{config}/rle_lengths"]) else []
    return [rle_to_mask({"size": [height, width], "counts": counts.tolist()}) for counts in runs]


@pytest.mark.parametrize("config", sorted(CONFIGS))
def test_every_golden_configuration_gives_the_original_records_in_its_order(mini: TorchRuntime, config: str) -> None:
    options = CONFIGS[config]["options"]
    generator = SamAutomaticMaskGenerator(mini, output_mode="uncompressed_rle", **options)
    records = generator.generate(inputs.image(CONFIGS[config]["image"]))
    want = {name: GOLDEN[f"{config}/{name}"] for name in ("bbox", "area", "predicted_iou", "stability_score")}
    assert len(records) == len(want["bbox"])
    for name in ("bbox", "crop_box"):
        got = np.array([record[name] for record in records], np.int64).reshape(-1, 4)
        np.testing.assert_array_equal(got, GOLDEN[f"{config}/{name}"])
    points = np.array([record["point_coords"] for record in records]).reshape(-1, 1, 2)
    np.testing.assert_array_equal(points, GOLDEN[f"{config}/point_coords"])
    for name, tolerance in (("predicted_iou", 2e-6), ("stability_score", 2e-4), ("area", MOVED_PIXELS)):
        np.testing.assert_allclose([record[name] for record in records], want[name], rtol=0, atol=tolerance)
    for record, mask in zip(records, golden_masks(config), strict=True):
        assert np.count_nonzero(rle_to_mask(record["segmentation"]) != mask) <= MOVED_PIXELS


def test_the_three_output_modes_hold_the_same_masks_and_area_counts_them(mini: TorchRuntime) -> None:
    options = CONFIGS["plain"]["options"] | {"points_per_side": 3}
    records = {
        mode: SamAutomaticMaskGenerator(mini, output_mode=mode, **options).generate(inputs.image("wide"))
        for mode in ("binary_mask", "uncompressed_rle", "coco_rle")
    }
    assert records["binary_mask"]
    for binary, runs, coco in zip(*records.values(), strict=True):
        mask = binary["segmentation"]
        assert mask.dtype == np.bool_ and mask.shape == (480, 640)
        np.testing.assert_array_equal(rle_to_mask(runs["segmentation"]), mask)
        np.testing.assert_array_equal(coco_to_mask(coco["segmentation"]), mask)
        assert isinstance(coco["segmentation"]["counts"], str)
        assert binary["area"] == runs["area"] == coco["area"] == mask.sum()


def test_records_have_the_keys_and_plain_types_of_segment_anything(mini: TorchRuntime) -> None:
    options = CONFIGS["plain"]["options"] | {"points_per_side": 3}
    record = SamAutomaticMaskGenerator(mini, output_mode="coco_rle", **options).generate(inputs.image("wide"))[0]
    types = {name: type(value) for name, value in record.items()}
    assert types == {
        "segmentation": dict,
        "area": int,
        "bbox": list,
        "predicted_iou": float,
        "point_coords": list,
        "stability_score": float,
        "crop_box": list,
    }
    assert all(type(side) is int for side in record["bbox"] + record["crop_box"])


def test_the_batch_size_changes_nothing(mini: TorchRuntime) -> None:
    options = CONFIGS["plain"]["options"] | {"points_per_side": 4}
    image = inputs.image("wide")
    by_7 = SamAutomaticMaskGenerator(mini, points_per_batch=7, **options).generate(image)
    by_64 = SamAutomaticMaskGenerator(mini, points_per_batch=64, **options).generate(image)
    assert len(by_7) == len(by_64) > 0
    for left, right in zip(by_7, by_64, strict=True):
        assert left["bbox"] == right["bbox"] and left["point_coords"] == right["point_coords"]


class Discs:
    """A runtime without weights: a disc around each point, whose logits fall by one a cell; predicted IoU 1."""

    name = "discs"
    spec = ModelSpec("discs", image_size=256, embedding_channels=1)

    def __init__(self, radius: float = 8, blur: float = 1) -> None:
        self.radius, self.blur = radius, blur
        self.batches: list[int] = []

    def encode(self, image: Float32) -> Embedding:
        return Embedding(np.zeros((1, 1, 16, 16), np.float32))

    def decode(self, embedding: Embedding, prompts: PromptTensors) -> Prediction:
        self.batches.append(len(prompts.point_coords))
        y, x = np.mgrid[0:64, 0:64] + 0.5
        cx, cy = prompts.point_coords[:, 0].T[..., None, None] / 4
        logits = (self.radius - np.hypot(x - cx, y - cy)) / self.blur
        masks = np.repeat(logits[:, None], 4, axis=1).astype(np.float32)
        return Prediction(masks, np.ones((len(masks), 4), np.float32))


def test_one_disc_a_point_remains_of_its_three_equal_masks() -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    records = SamAutomaticMaskGenerator(Discs(radius=6), 4, stability_score_thresh=0.1).generate(image)
    assert len(records) == 16
    assert records[0]["area"] == pytest.approx(np.pi * 24**2, rel=0.05)


def test_a_blurred_mask_is_dropped_as_unstable_and_a_sharp_one_is_kept() -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    kept = {blur: len(SamAutomaticMaskGenerator(Discs(radius=6, blur=blur), 2).generate(image)) for blur in (0.01, 4.0)}
    assert kept == {0.01: 4, 4.0: 0}


def test_a_mask_without_any_pixel_fails_the_stability_test() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    assert SamAutomaticMaskGenerator(Discs(radius=-10), 2, stability_score_thresh=0.01).generate(image) == []


def test_without_thresholds_an_empty_mask_is_a_record_with_a_zero_box() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    generator = SamAutomaticMaskGenerator(Discs(radius=-10), 2, pred_iou_thresh=0, stability_score_thresh=0)
    records = generator.generate(image)
    assert [(record["area"], record["bbox"]) for record in records[:1]] == [(0, [0, 0, 0, 0])]


def test_progress_counts_every_point_of_every_crop_once() -> None:
    seen: list[tuple[int, int]] = []
    runtime = Discs()
    generator = SamAutomaticMaskGenerator(runtime, 4, points_per_batch=6, crop_n_layers=1)
    generator.generate(np.zeros((90, 120, 3), np.uint8), progress=lambda done, total: seen.append((done, total)))
    assert runtime.batches == [6, 6, 4] * 5
    assert [done for done, _ in seen] == np.cumsum(runtime.batches).tolist()
    assert {total for _, total in seen} == {80}


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (1, 4000), (7, 1)])
def test_photos_of_a_few_pixels_and_one_pixel_rows_work_with_crops_too(size: tuple[int, int]) -> None:
    generator = SamAutomaticMaskGenerator(Discs(), 2, crop_n_layers=2, output_mode="binary_mask", pred_iou_thresh=0)
    for record in generator.generate(np.zeros((*size, 3), np.uint8)):
        assert record["segmentation"].shape == size


def test_crops_without_any_mask_give_an_empty_list() -> None:
    generator = SamAutomaticMaskGenerator(Discs(), 2, crop_n_layers=1, pred_iou_thresh=5)
    assert generator.generate(np.zeros((40, 60, 3), np.uint8)) == []


def test_memory_does_not_grow_with_masks_times_photo() -> None:
    """144 discs on 3 megapixels: as bool masks 432 MB, as float logits four times that."""
    image = np.zeros((1500, 2000, 3), np.uint8)
    generator = SamAutomaticMaskGenerator(
        Discs(radius=2.2), 12, stability_score_thresh=0.1, output_mode="uncompressed_rle"
    )
    tracemalloc.start()
    records = generator.generate(image)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(records) > 90
    assert peak_bytes < 36e6  # 12 bytes a pixel


def test_small_holes_and_islands_are_cleaned_from_the_masks() -> None:
    class Holed(Discs):
        def decode(self, embedding: Embedding, prompts: PromptTensors) -> Prediction:
            prediction = super().decode(embedding, prompts)
            prediction.low_res_masks[:, :, 32, 32] = -20
            prediction.low_res_masks[:, :, 2:4, 2:4] = 20
            return prediction

    grid = [np.array([[0.5, 0.5]])]
    options: dict[str, Any] = {"points_per_side": None, "point_grids": grid, "stability_score_thresh": 0.1}
    image = np.zeros((256, 256, 3), np.uint8)
    before, after = (
        SamAutomaticMaskGenerator(Holed(), min_mask_region_area=area, **options).generate(image)[0] for area in (0, 500)
    )
    assert not before["segmentation"][130, 130] and after["segmentation"][130, 130]
    assert before["segmentation"][11, 11] and not after["segmentation"][11, 11]
    assert after["area"] == after["segmentation"].sum()
    assert before["bbox"][:2] == [9, 9] and after["bbox"][0] > 90


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_per_side": None}, "either points_per_side or point_grids"),
        ({"point_grids": [[[0.5, 0.5]]]}, "either points_per_side or point_grids"),
        ({"points_per_side": None, "point_grids": [[[0.5, 0.5]]], "crop_n_layers": 1}, "expected 2"),
        ({"points_per_side": None, "point_grids": [[[0.5, 1.5]]]}, "outside 0 to 1"),
        ({"points_per_side": None, "point_grids": [[0.5, 0.5]]}, "point_grids has shape"),
        ({"points_per_side": 0}, "at least 1 point"),
        ({"points_per_side": 2, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2}, "at least 1 point"),
        ({"points_per_batch": 0}, "points_per_batch is 0"),
        ({"output_mode": "png"}, "output_mode is 'png'"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        SamAutomaticMaskGenerator(Discs(), **options)


def test_a_photo_of_another_dtype_is_refused() -> None:
    with pytest.raises(ImageError, match="float64"):
        SamAutomaticMaskGenerator(Discs(), 2).generate(np.zeros((8, 8, 3)))  # type: ignore[arg-type]


def test_golden_coco_strings_are_of_the_golden_masks() -> None:
    for string, mask in zip(GOLDEN["plain/coco_counts"], golden_masks("plain"), strict=True):
        runs: Rle = mask_to_rle(mask)
        np.testing.assert_array_equal(coco_to_mask({"size": runs["size"], "counts": str(string)}), mask)
