"""The page's engine against Python: the same masks on the bundled photos, from the photo's bytes to run lengths."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import sam_edge
from sam_edge.boxes import box_xyxy_to_xywh, mask_to_box
from sam_edge.rle import coco_to_mask
from tests.web.conftest import photo

NAMES = ("astronaut", "chelsea", "coffee")
MASK_IOU = 0.99
# Relative to the photo's size: points x, y, label, and boxes.
POINT = {"points": [(0.5, 0.45, 1)]}
POINTS = {"points": [(0.5, 0.45, 1), (0.3, 0.7, 0), (0.62, 0.5, 1)]}
BOX = {"box": (0.15, 0.1, 0.8, 0.9)}
PROMPTS = {
    "point": POINT,
    "points": POINTS,
    "box": BOX,
    "box and point": POINT | BOX,
    "past the border": {"box": (-0.2, -0.1, 0.6, 1.3)},
}
SET_IMAGE = """async name => {
    const answer = await fetch(`examples/${name}.jpg`);
    const { size, originalSize } = await segmenter.setImage(await answer.blob());
    return { size, originalSize };
}"""
PREDICT = """async given => {
    const { answers } = await segmenter.predict({ ...given, masks: [0, 1, 2, 3] });
    return Promise.all(answers.map(async ({ mask, cells, predictedIou }) =>
        ({ ...(await segmenter.rle(cells)), predictedIou, stability: mask.stabilityScore })));
}"""
EVERYTHING = """async side => {
    const found = await segmenter.everything({ pointsPerSide: side });
    return Promise.all(found.map(async ({ cells, mask, predictedIou, point }) =>
        ({ ...(await segmenter.rle(cells)), predictedIou, point, stability: mask.stabilityScore })));
}"""


def mask_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    either = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / either if either else 1.0


def scaled(prompt: dict[str, Any], width: int, height: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A relative prompt in pixels: for the page, and for Python."""
    points = [(x * width, y * height, label) for x, y, label in prompt.get("points", ())]
    box = [value * side for value, side in zip(prompt.get("box", ()), (width, height, width, height), strict=False)]
    page: dict[str, Any] = {"points": [{"x": x, "y": y, "label": label} for x, y, label in points]}
    python: dict[str, Any] = {}
    if box:
        page["box"] = python["box"] = box
    if points:
        python |= {"point_coords": [point[:2] for point in points], "point_labels": [point[2] for point in points]}
    return page, python


@pytest.mark.parametrize("name", NAMES)
def test_prompts_give_pythons_masks(nano_page: Any, predictor: sam_edge.SamPredictor, name: str) -> None:
    image = photo(name)
    height, width = image.shape[:2]
    assert nano_page.evaluate(SET_IMAGE, name) == {"size": [height, width], "originalSize": [height, width]}
    predictor.set_image(image)
    for kind, prompt in PROMPTS.items():
        page, python = scaled(prompt, width, height)
        got = nano_page.evaluate(PREDICT, page)
        single, single_iou, _ = predictor.predict(**python, multimask_output=False)
        several, several_iou, _ = predictor.predict(**python, multimask_output=True)
        expected = [*single, *several]
        for index, (answer, mask) in enumerate(zip(got, expected, strict=True)):
            drawn = coco_to_mask(answer["rle"])
            assert mask_iou(drawn, mask) >= MASK_IOU, (kind, index)
            assert answer["area"] == drawn.sum()
            assert answer["bbox"] == mask_to_box(drawn).tolist()
        predicted = [answer["predictedIou"] for answer in got]
        np.testing.assert_allclose(predicted, [*single_iou, *several_iou], atol=1e-3)  # 1e-5 seen: other kernels


def test_an_earlier_mask_is_fed_back_as_in_python(nano_page: Any, predictor: sam_edge.SamPredictor) -> None:
    image = photo("coffee")
    height, width = image.shape[:2]
    nano_page.evaluate(SET_IMAGE, "coffee")
    predictor.set_image(image)
    page, python = scaled(POINT, width, height)
    _, _, logits = predictor.predict(**python, multimask_output=False)
    page_two, python_two = scaled(POINTS, width, height)
    expected, _, _ = predictor.predict(**python_two, mask_input=logits, multimask_output=False)
    got = nano_page.evaluate(
        """async ([first, second]) => {
            const before = await segmenter.predict(first);
            const after = await segmenter.predict({ ...second, maskInput: before.answers[0].logits });
            return segmenter.rle(after.answers[0].cells);
        }""",
        [page, page_two],
    )
    assert mask_iou(coco_to_mask(got["rle"]), expected[0]) >= MASK_IOU


@pytest.mark.parametrize("name", NAMES)
def test_everything_finds_what_python_finds(nano_page: Any, predictor: sam_edge.SamPredictor, name: str) -> None:
    side, spec = 6, predictor.runtime.spec
    nano_page.evaluate(SET_IMAGE, name)
    got = nano_page.evaluate(EVERYTHING, side)
    thresholds = (spec.pred_iou_thresh, spec.stability_score_thresh)
    generator = sam_edge.SamAutomaticMaskGenerator(predictor.runtime, side, 64, *thresholds)
    expected = generator.generate(photo(name))
    assert len(got) == len(expected) > 0
    for found, record in zip(got, expected, strict=True):  # in the same order
        drawn = coco_to_mask(found["rle"])
        assert mask_iou(drawn, record["segmentation"]) >= MASK_IOU
        assert found["point"] == pytest.approx(record["point_coords"][0])
        assert found["predictedIou"] == pytest.approx(record["predicted_iou"], abs=1e-3)
        assert found["stability"] == pytest.approx(record["stability_score"], abs=0.01)
        assert box_xyxy_to_xywh(np.array(found["bbox"])).tolist() == pytest.approx(record["bbox"], abs=1)


def test_the_self_check_passes_on_the_golden_photos(nano_page: Any) -> None:
    found = nano_page.evaluate("segmenter.selfCheck()")
    assert found["embedding"] <= found["tolerance"]
    assert found["maskIou"] >= MASK_IOU
    assert found["change"] > 0.05


def test_the_engine_has_threads_because_the_page_is_isolated(nano_page: Any) -> None:
    assert nano_page.evaluate("crossOriginIsolated") is True
    state = nano_page.evaluate("segmenter.state")
    assert state["backend"] == "wasm"
    assert state["threads"] == min(4, nano_page.evaluate("navigator.hardwareConcurrency"))


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"points": [{"x": 1e6, "y": 0, "label": 1}]}, r"outside the photo"),
        ({"points": [{"x": 1, "y": 1, "label": 7}]}, r"label 7"),
        ({"points": [{"x": None, "y": 1, "label": 1}]}, r"outside the photo|label"),
        ({"box": [10, 10, 5, 20]}, r"empty or inverted"),
        ({"box": [-20, -20, -5, -2]}, r"does not overlap"),
    ],
)
def test_prompts_that_cannot_be_used(nano_page: Any, given: dict[str, Any], part: str) -> None:
    nano_page.evaluate(SET_IMAGE, "coffee")
    message = nano_page.evaluate(
        "given => segmenter.predict(given).then(() => '', error => error.kind + ': ' + error.message)", given
    )
    assert message.startswith("prompt: ") and re.search(part, message)
