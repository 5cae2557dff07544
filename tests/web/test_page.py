"""The page as a person uses it: real drops, clicks, drags, keys and fingers; files that are saved are read again."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import sam_edge
from sam_edge.rle import coco_to_mask
from tests.web.conftest import PHONE, PHOTOS, TIMEOUT_MS, photo
from tests.web.test_parity import MASK_IOU, mask_iou

OpenPage = Callable[..., Any]


def drop(page: Any, name: str, data: bytes, media_type: str = "") -> None:
    """A file let go over the page."""
    page.evaluate(
        """([name, text, type]) => {
            const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type }));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
        }""",
        [name, base64.b64encode(data).decode(), media_type],
    )


def wait_until(page: Any, condition: str, given: Any = None) -> None:
    """Poll from outside: the page's own policy forbids Playwright to poll with code in a string."""
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while not page.evaluate(condition, given):
        assert time.monotonic() < deadline, f"not in time: {condition}; the page says: {status(page)}"
        page.wait_for_timeout(50)


def idle(page: Any) -> None:
    page.evaluate("samEdge.idle()")


def open_example(page: Any, number: int = 0) -> None:
    page.click(f"#examples button >> nth={number}")
    page.wait_for_selector("#panel:not([hidden])")
    idle(page)


def at(page: Any, x: float, y: float) -> tuple[float, float]:
    """A place on the photo, 0 to 1, in the window's pixels."""
    box = page.locator("#stage").bounding_box()
    return box["x"] + box["width"] * x, box["y"] + box["height"] * y


def click(page: Any, x: float, y: float, **options: Any) -> None:
    page.mouse.click(*at(page, x, y), **options)
    idle(page)


def drag(page: Any, start: Sequence[float], end: Sequence[float]) -> None:
    page.mouse.move(*at(page, *start))
    page.mouse.down()
    page.mouse.move(*at(page, *end), steps=3)
    page.mouse.up()
    idle(page)


def objects(page: Any) -> list[dict[str, Any]]:
    """Prompts of all objects, as the page has them."""
    found: list[dict[str, Any]] = page.evaluate(
        """samEdge.labels().objects.map(({ id, name, points, box, choice, mask }) =>
            ({ id, name, points, box: box ?? null, choice, area: mask?.area ?? 0 }))"""
    )
    return found


def masks(page: Any) -> list[NDArray[np.bool_]]:
    return [coco_to_mask(entry["segmentation"]) for entry in page.evaluate("samEdge.document()")["annotations"]]


def status(page: Any) -> str:
    text: str = page.locator("#status").text_content()
    return text


def wait_for_status(page: Any, part: str) -> None:
    wait_until(page, "part => document.getElementById('status').textContent.includes(part)", part)


def saved(page: Any, kind: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.click(f"[data-export={kind}]")
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_drop_click_export(
    open_page: OpenPage, address: str, predictor: sam_edge.SamPredictor, screenshots: Path
) -> None:
    page = open_page(address)
    page.screenshot(path=screenshots / "welcome.png")
    assert "Nothing is uploaded" in page.locator("header").text_content()
    drop(page, "my cup.jpg", (PHOTOS / "coffee.jpg").read_bytes(), "image/jpeg")
    page.wait_for_selector("#panel:not([hidden])")
    idle(page)
    image = photo("coffee")
    predictor.set_image(image)

    click(page, 0.5, 0.25)
    (cup,) = objects(page)
    (point,) = cup["points"]
    assert (point["x"], point["y"], point["label"]) == (pytest.approx(300, abs=1), pytest.approx(100, abs=1), 1)
    coords, labels = [[point["x"], point["y"]]], [1]
    expected, _, logits = predictor.predict(coords, labels, multimask_output=False)
    assert mask_iou(masks(page)[0], expected[0]) >= MASK_IOU

    click(page, 0.14, 0.6, button="right")  # beside the object, from the mask so far
    (cup,) = objects(page)
    assert [entry["label"] for entry in cup["points"]] == [1, 0]
    coords = [[entry["x"], entry["y"]] for entry in cup["points"]]
    expected, _, _ = predictor.predict(coords, [1, 0], mask_input=logits, multimask_output=False)
    (mask,) = masks(page)
    assert mask_iou(mask, expected[0]) >= MASK_IOU
    page.screenshot(path=screenshots / "click.png")

    page.fill("#objects input", "cup of coffee")
    name, png = saved(page, "mask")
    assert name == "my cup.cup-of-coffee.mask.png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png)).convert("L")) > 127, mask)
    name, png = saved(page, "cutout")
    cutout = np.asarray(Image.open(io.BytesIO(png)))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    tight = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    np.testing.assert_array_equal(cutout[..., 3] >= 128, mask[tight])
    visible = mask[tight]
    assert np.abs(cutout[visible][:, :3].astype(int) - image[tight][visible]).max() <= 2  # two JPEG decoders

    name, text = saved(page, "sa1b")
    document = json.loads(text)
    (entry,) = document["annotations"]
    assert (name, document["image"]["file_name"], entry["category"]) == ("my cup.json", "my cup.jpg", "cup of coffee")
    np.testing.assert_array_equal(coco_to_mask(entry["segmentation"]), mask)
    assert entry["area"] == mask.sum() and entry["point_coords"][0] == coords[0]
    name, text = saved(page, "coco")
    coco = json.loads(text)
    assert (name, coco["categories"]) == ("my cup.coco.json", [{"id": 1, "name": "cup of coffee"}])
    (entry,) = coco["annotations"]
    assert entry["bbox"] == [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
    timings = page.evaluate("samEdge.timings()")
    assert len(timings["clicksMs"]) == 2 and timings["encodeMs"] > 0
    assert "–" not in page.locator("#timings").text_content()


def test_boxes_several_objects_and_every_step_back(
    open_page: OpenPage, address: str, predictor: sam_edge.SamPredictor, screenshots: Path
) -> None:
    page = open_page(address)
    open_example(page, 2)
    predictor.set_image(photo("astronaut"))
    drag(page, (0.7, 0.02), (0.93, 0.56))
    (first,) = objects(page)
    expected, _, logits = predictor.predict(box=first["box"], multimask_output=False)
    assert mask_iou(masks(page)[0], expected[0]) >= MASK_IOU
    click(page, 0.8, 0.3)
    (first,) = objects(page)
    coords = [[entry["x"], entry["y"]] for entry in first["points"]]
    expected, _, _ = predictor.predict(coords, [1], box=first["box"], mask_input=logits, multimask_output=False)
    assert mask_iou(masks(page)[0], expected[0]) >= MASK_IOU

    page.click("#new")
    click(page, 0.42, 0.2)
    page.click("#new")
    click(page, 0.1, 0.3)
    assert [entry["id"] for entry in objects(page)] == [1, 2, 3]
    page.screenshot(path=screenshots / "objects.png")

    choices = []
    for _ in range(4):
        page.keyboard.press("m")
        idle(page)
        choices.append(objects(page)[2]["choice"])
    assert choices == [1, 2, 3, 0]
    before = objects(page)
    steps = 0
    while page.locator("#undo").is_enabled():
        page.keyboard.press("Control+z")
        idle(page)
        steps += 1
    assert objects(page) == [] and steps == 10  # box, click, 2 x (new, click), 4 alternatives
    while page.locator("#redo").is_enabled():
        page.keyboard.press("Control+y")
        idle(page)
    assert objects(page) == before
    page.click("#objects .remove >> nth=1")
    assert [entry["id"] for entry in objects(page)] == [1, 3]
    page.keyboard.press("Escape")  # clears the current object
    assert [entry["id"] for entry in objects(page)] == [1]


def test_hover_shows_what_a_click_would_give_and_never_queues(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    open_example(page, 1)
    assert not painted(page)
    for step in range(25):
        page.mouse.move(*at(page, 0.3 + step / 60, 0.4))
    wait_until(page, PAINTED)
    assert page.evaluate("samEdge.timings()")["hoverMostQueued"] <= 2  # one runs, one waits
    assert objects(page) == []
    page.mouse.move(2, 2)
    wait_until(page, f"!({PAINTED})")
    page.mouse.move(*at(page, 0.5, 0.4))
    click(page, 0.5, 0.4)
    assert len(objects(page)) == 1


COUNT_PREDICTIONS = """samEdge.ready.then(segmenter => {
    const predict = segmenter.predict.bind(segmenter);
    window.asked = 0;
    segmenter.predict = options => { window.asked += 1; return predict(options); };
})"""


def test_a_click_where_the_pointer_rests_is_answered_by_its_preview(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    open_example(page, 1)
    page.evaluate(COUNT_PREDICTIONS)
    page.mouse.move(*at(page, 0.5, 0.4))
    wait_until(page, PAINTED)
    assert page.evaluate("window.asked") == 1
    click(page, 0.5, 0.4)
    assert page.evaluate("window.asked") == 1
    (object_,) = objects(page)
    assert len(object_["points"]) == 1 and object_["area"] > 0
    click(page, 0.2, 0.2, button="right")  # another prompt is another question
    assert page.evaluate("window.asked") == 2


PAINTED = """(() => {
    const canvas = document.getElementById("masks");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return data.some((value, index) => index % 4 === 3 && value > 0);
})()"""


def painted(page: Any) -> bool:
    return bool(page.evaluate(PAINTED))


def test_with_the_keyboard_alone(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    page.locator("#examples button").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel:not([hidden])")
    idle(page)
    page.locator("#stage").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    idle(page)
    (cup,) = objects(page)
    assert cup["points"][0]["x"] < 300 and cup["points"][0]["label"] == 1 and cup["area"] > 0
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Shift+Enter")
    idle(page)
    assert [entry["label"] for entry in objects(page)[0]["points"]] == [1, 0]
    page.keyboard.press("n")
    page.keyboard.press("b")
    for _ in range(6):
        page.keyboard.press("Shift+ArrowUp")
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("b")
    idle(page)
    box = objects(page)[1]["box"]
    assert box[0] < box[2] and box[1] < box[3]
    page.fill("#objects input >> nth=1", "mnesz")  # letters are names here, not commands
    assert objects(page)[1]["name"] == "mnesz" and len(objects(page)) == 2
    page.keyboard.press("Enter")
    page.keyboard.press("?")
    assert page.locator("#help-text").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(open_page: OpenPage, address: str, screenshots: Path, scheme: str) -> None:
    phone = {"viewport": PHONE, "has_touch": True, "is_mobile": True, "device_scale_factor": 2, "color_scheme": scheme}
    page = open_page(address, **phone)
    page.screenshot(path=screenshots / f"phone-welcome-{scheme}.png")
    page.locator("#examples button").nth(1).tap()
    page.wait_for_selector("#panel:not([hidden])")
    idle(page)
    page.touchscreen.tap(*at(page, 0.45, 0.35))
    idle(page)
    page.locator(".modes span").nth(1).tap()
    page.touchscreen.tap(*at(page, 0.93, 0.9))
    idle(page)
    assert [entry["label"] for entry in objects(page)[0]["points"]] == [1, 0]
    page.screenshot(path=screenshots / f"phone-{scheme}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]  # nothing is cut off
    for control in page.locator("#tools button, .modes span").all():
        box = control.bounding_box()
        assert box["height"] >= 44 and box["width"] >= 44  # a finger's size
    page.locator("#undo").tap()
    idle(page)
    assert len(objects(page)[0]["points"]) == 1
    page.locator("#help").tap()
    assert page.evaluate("document.getElementById('help-text').scrollTop") == 0  # reading begins at the title


def test_everything_becomes_objects_and_can_be_stopped(open_page: OpenPage, address: str, screenshots: Path) -> None:
    page = open_page(address)
    open_example(page, 2)
    page.select_option("#grid", "8")
    page.click("#everything")
    wait_for_status(page, "objects found")
    found = objects(page)
    assert len(found) > 3 and len({entry["id"] for entry in found}) == len(found)
    assert len(masks(page)) == len(found)
    page.screenshot(path=screenshots / "everything.png")
    page.keyboard.press("Control+z")
    idle(page)
    assert objects(page) == []
    page.select_option("#grid", "32")
    page.click("#everything")
    wait_for_status(page, "Searching")
    click(page, 0.42, 0.2)  # clicks are answered meanwhile
    assert len(objects(page)) == 1
    page.keyboard.press("Escape")
    wait_for_status(page, "Stopped")
    assert len(objects(page)) == 1


def test_paste_and_pick(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    with page.expect_file_chooser() as chooser:
        page.click("#pick")
    chooser.value.set_files(PHOTOS / "chelsea.jpg")
    page.wait_for_selector("#panel:not([hidden])")
    idle(page)
    assert page.evaluate("samEdge.photo().name") == "chelsea.jpg"
    picture = io.BytesIO()
    Image.fromarray(photo("coffee")[:200, :300]).save(picture, "PNG")
    page.evaluate(
        """text => {
            const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([bytes], "image.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
        }""",
        base64.b64encode(picture.getvalue()).decode(),
    )
    wait_until(page, "samEdge.photo()?.name === 'image.png'")
    assert page.evaluate("samEdge.photo().originalSize") == [200, 300]
