"""The predictor against the original's masks, over the torch runtime with golden weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from sam_edge.errors import ImageError, PromptError
from sam_edge.predictor import SamPredictor
from sam_edge.runtimes.with_torch import TorchRuntime
from tests.golden_data import golden, inputs
from tests.golden_models import golden_model, unpack_masks

GOLDEN = golden("vit_mini")
KEYS = ("point", "points", "box", "box_points", "mask_point", "padded", "box_mask", "mask", "nothing")


@pytest.fixture(scope="module")
def mini() -> Iterator[TorchRuntime]:
    threads = torch.get_num_threads()
    yield TorchRuntime(golden_model("vit_mini"), threads=1)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def predictors(mini: TorchRuntime) -> dict[str, SamPredictor]:
    """One for each golden image, set."""
    both = {name: SamPredictor(mini) for name in inputs.IMAGE_SIZES}
    for name, predictor in both.items():
        predictor.set_image(inputs.image(name))
    return both


def arguments(name: str, key: str) -> dict[str, Any]:
    prompt = {argument: np.array(value) for argument, value in inputs.prompts(name)[key].items()}
    if "mask_input" in prompt:
        prompt["mask_input"] = inputs.mask_logits(64)
    return prompt


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_set_image_gives_the_golden_features_and_sizes(predictors: dict[str, SamPredictor], name: str) -> None:
    predictor = predictors[name]
    assert predictor.is_image_set
    assert predictor.original_size == tuple(GOLDEN[f"{name}/original_size"])
    assert predictor.input_size == tuple(GOLDEN[f"{name}/input_size"])
    np.testing.assert_allclose(predictor.get_image_embedding(), GOLDEN[f"{name}/features"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["wide", "tall"])
@pytest.mark.parametrize("key", KEYS)
def test_every_golden_prompt_gives_the_golden_masks_iou_and_logits(
    predictors: dict[str, SamPredictor], name: str, key: str
) -> None:
    height, width = inputs.IMAGE_SIZES[name]
    for multimask, rows in ((False, slice(0, 1)), (True, slice(1, 4))):
        masks, iou, low_res = predictors[name].predict(**arguments(name, key), multimask_output=multimask)
        logits, _, _ = predictors[name].predict(**arguments(name, key), multimask_output=multimask, return_logits=True)
        count = rows.stop - rows.start
        assert masks.shape == (count, height, width) and masks.dtype == np.bool_
        assert iou.shape == (count,) and low_res.shape == (count, 64, 64)
        np.testing.assert_allclose(low_res, GOLDEN[f"{name}/{key}/low_res"][rows], rtol=0, atol=2e-4)
        np.testing.assert_allclose(iou, GOLDEN[f"{name}/{key}/iou"][rows], rtol=0, atol=2e-6)
        np.testing.assert_allclose(logits[:, ::29, ::31], GOLDEN[f"{name}/{key}/logits_sub"][rows], rtol=0, atol=3e-4)
        expected = unpack_masks(GOLDEN[f"{name}/{key}/masks"], width)[rows]
        assert ((masks != expected).sum((1, 2)) <= 10).all()


@pytest.mark.parametrize("multimask", [True, False])
def test_a_batch_of_prompts_gives_the_golden_masks_of_the_original_batch(
    predictors: dict[str, SamPredictor], multimask: bool
) -> None:
    """`forward` of the original was called on both images with the same prompts."""
    kind = "multi" if multimask else "single"
    for name in ("wide", "tall"):
        coords, labels = inputs.batch_points(name)
        prompt: dict[str, Any] = {"point_coords": coords, "point_labels": labels}
        if name == "tall":
            scales = np.array([1, -1, 0.5, 0])[:, None, None, None]
            prompt |= {"boxes": inputs.batch_boxes(name), "mask_input": inputs.mask_logits(64) * scales}
        masks, iou, low_res = predictors[name].predict_batch(**prompt, multimask_output=multimask)
        expected = unpack_masks(GOLDEN[f"forward/{kind}/{name}/masks"], masks.shape[-1])
        assert masks.shape == expected.shape
        assert ((masks != expected).sum((2, 3)) <= 10).all()
        np.testing.assert_allclose(iou, GOLDEN[f"forward/{kind}/{name}/iou"], rtol=0, atol=2e-6)
        np.testing.assert_allclose(low_res[..., ::7, ::7], GOLDEN[f"forward/{kind}/{name}/low_res"], rtol=0, atol=2e-4)


def test_a_large_batch_is_decoded_in_parts_with_the_results_of_single_prompts(
    mini: TorchRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sam_edge.predictor.PROMPTS_PER_DECODE", 3)
    predictor = SamPredictor(mini)
    predictor.set_image(inputs.image("wide"))
    coords = np.random.default_rng(1).uniform(0, 400, (7, 1, 2))
    masks, iou, low_res = predictor.predict_batch(coords, np.ones((7, 1)), multimask_output=False)
    assert masks.shape == (7, 1, 480, 640)
    one = predictor.predict(coords[5], [1], multimask_output=False)
    for batched, single in zip((masks[5], iou[5], low_res[5]), one, strict=True):
        assert np.abs(batched.astype(np.float32) - single).sum() < 10


def test_low_res_masks_can_be_fed_back_as_mask_input(predictors: dict[str, SamPredictor]) -> None:
    point = ([[448, 168]], [1])
    _, _, low_res = predictors["wide"].predict(*point, multimask_output=False)
    _, _, again = predictors["wide"].predict(*point, mask_input=low_res, multimask_output=False)
    assert np.abs(again - low_res).max() > 0.01


def test_bgr_photos_give_the_masks_of_rgb_ones(mini: TorchRuntime) -> None:
    predictor = SamPredictor(mini)
    predictor.set_image(inputs.image("wide")[..., ::-1], image_format="BGR")
    np.testing.assert_allclose(predictor.get_image_embedding(), GOLDEN["wide/features"], rtol=0, atol=1e-5)


def test_tensors_in_give_tensors_out_with_the_same_values(mini: TorchRuntime) -> None:
    predictor = SamPredictor(mini)
    image = inputs.image("wide")
    resized = torch.from_numpy(predictor.transform.apply_image(image)).permute(2, 0, 1)[None]
    predictor.set_torch_image(resized, image.shape[:2])
    boxes = torch.from_numpy(inputs.batch_boxes("wide"))
    scaled = predictor.transform.apply_boxes_torch(boxes, image.shape[:2])
    masks, iou, low_res = predictor.predict_torch(None, None, scaled, multimask_output=False)
    assert all(isinstance(result, torch.Tensor) for result in (masks, iou, low_res))
    assert masks.dtype == torch.bool
    expected = predictor.predict_batch(boxes=inputs.batch_boxes("wide"), multimask_output=False)
    for got, want in zip((masks, iou, low_res), expected, strict=True):
        np.testing.assert_array_equal(got.numpy(), want)


def test_arrays_in_give_arrays_out_of_the_torch_methods(mini: TorchRuntime) -> None:
    predictor = SamPredictor(mini)
    image = inputs.image("tall")
    resized = predictor.transform.apply_image(image).transpose(2, 0, 1)[None]
    predictor.set_torch_image(resized, image.shape[:2])
    coords = predictor.transform.apply_coords(np.array([[[100, 192]]]), image.shape[:2])
    masks, _, _ = predictor.predict_torch(coords, np.array([[1]]))
    assert isinstance(masks, np.ndarray) and masks.shape == (1, 3, 640, 360)
    np.testing.assert_allclose(predictor.get_image_embedding(), GOLDEN["tall/features"], rtol=0, atol=1e-5)


def test_an_image_that_was_not_resized_is_refused_by_set_torch_image(mini: TorchRuntime) -> None:
    with pytest.raises(ImageError, match=r"expected \(1, 3, 192, 256\)"):
        SamPredictor(mini).set_torch_image(np.zeros((1, 3, 480, 640)), (480, 640))


def test_predict_before_set_image_and_after_reset_says_what_to_do(mini: TorchRuntime) -> None:
    predictor = SamPredictor(mini)
    for call in (predictor.predict, predictor.predict_batch, predictor.get_image_embedding):
        with pytest.raises(PromptError, match="Call set_image"):
            call()
    predictor.set_image(inputs.image("wide"))
    assert predictor.is_image_set
    predictor.reset_image()
    assert not predictor.is_image_set and predictor.original_size is None
    with pytest.raises(PromptError, match="Call set_image"):
        predictor.predict_torch(None, None)


def test_a_photo_that_is_refused_leaves_the_one_before(mini: TorchRuntime) -> None:
    predictor = SamPredictor(mini)
    predictor.set_image(inputs.image("wide"))
    with pytest.raises(ImageError):
        predictor.set_image(np.zeros((4, 4), np.uint8))
    assert predictor.original_size == (480, 640)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_photos_of_one_pixel_and_one_row_have_masks_of_their_size(mini: TorchRuntime, size: tuple[int, int]) -> None:
    predictor = SamPredictor(mini)
    predictor.set_image(np.full((*size, 3), 90, np.uint8))
    masks, _, _ = predictor.predict([[0.5, 0.5]], [1])
    assert masks.shape == (3, *size)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"point_coords": [1, 2], "point_labels": [1]}, r"point_coords has shape \(2,\), expected \(N, 2\)"),
        ({"point_coords": [[[1, 2]]], "point_labels": [[1]]}, "Use predict_batch"),
        ({"point_coords": [[1, 2], [3]], "point_labels": [1, 1]}, "not an array of numbers"),
        ({"point_coords": [[1, 2]], "point_labels": 1}, r"point_labels has shape \(\)"),
        ({"point_coords": [[700, 2]], "point_labels": [1]}, "outside the photo"),
        ({"box": [[1, 2, 3, 4], [1, 2, 3, 4]]}, r"box has shape \(2, 4\), expected \(4,\)"),
        ({"box": [30, 2, 3, 4]}, "empty or inverted"),
        ({"mask_input": np.zeros((64, 64))}, r"mask_input has shape \(64, 64\)"),
        ({"mask_input": np.zeros((1, 32, 32))}, "mask_input has shape"),
    ],
)
def test_bad_prompts_are_refused(predictors: dict[str, SamPredictor], prompt: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        predictors["wide"].predict(**prompt)


def test_an_unknown_channel_order_is_refused(mini: TorchRuntime) -> None:
    with pytest.raises(ImageError, match="RGBA"):
        SamPredictor(mini).set_image(inputs.image("wide"), image_format="RGBA")


def test_a_box_in_a_row_is_taken_as_segment_anything_takes_it(predictors: dict[str, SamPredictor]) -> None:
    flat = predictors["wide"].predict(box=np.array([10, 20, 300, 400]))
    row = predictors["wide"].predict(box=np.array([[10, 20, 300, 400]]))
    np.testing.assert_array_equal(flat[2], row[2])


def test_timings_have_every_stage(predictors: dict[str, SamPredictor]) -> None:
    predictors["wide"].predict([[10, 10]], [1])
    assert set(predictors["wide"].timings_ms) == {"preprocess", "encode", "decode", "postprocess"}
    assert all(value > 0 for value in predictors["wide"].timings_ms.values())


def test_predictor_and_everything_mode_import_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import sam_edge.predictor, sam_edge.everything\n"
        "from sam_edge.transform import is_tensor\n"
        "import numpy; assert not is_tensor(numpy.ones(2))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
