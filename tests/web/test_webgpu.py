"""WebGPU on a software adapter, with a model of a few numbers: the self-check, the fallback and a lost device."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_edge.artifact import open_artifact
from sam_edge.rle import coco_to_mask
from sam_edge.web.server import Site, site_files
from tests.small_artifact import small_artifact, whole_artifact
from tests.web.conftest import CHROMIUM, FLAGS, TIMEOUT_MS, serve
from tests.web.test_page import wait_until

SOFTWARE_GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
LOAD = """async backend => {
    const segmenter = window.segmenter = await samEdge.Segmenter.load("model/", { backend, workerUrl: "worker.js" });
    return segmenter.state;
}"""
MASK = """async bytes => {
    const file = new Blob([Uint8Array.from(bytes)]);
    await segmenter.setImage(file);
    const { answers } = await segmenter.predict({ points: [{ x: 20, y: 30, label: 1 }] });
    return { ...(await segmenter.rle(answers[0].cells)), iou: answers[0].predictedIou };
}"""
# The worker's script, after a line that keeps the device for the test to lose.
KEEP_DEVICE = """{
    const ask = GPUAdapter.prototype.requestDevice;
    GPUAdapter.prototype.requestDevice = async function (...given) {
        return (self.device = await ask.apply(this, given));
    };
}
"""


@pytest.fixture
def gpu_page(browser: Any) -> Iterator[Any]:
    """A page of a browser with a software WebGPU adapter, of its own."""
    flags = [flag for flag in FLAGS if flag != "--disable-gpu"] + list(SOFTWARE_GPU)
    chromium = browser.browser_type.launch(executable_path=CHROMIUM, args=flags)
    page = chromium.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    yield page
    chromium.close()


def picture() -> list[int]:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return list(buffer.getvalue())


def test_webgpu_serves_where_it_draws_the_stored_masks_and_is_left_when_lost(gpu_page: Any, tmp_path: Path) -> None:
    with serve(Site(site_files(whole_artifact(tmp_path)))) as url:
        gpu_page.route(
            "**/worker.js",
            lambda route: route.fulfill(response=(answer := route.fetch()), body=KEEP_DEVICE + answer.text()),
        )
        gpu_page.goto(url)
        if not gpu_page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"):
            pytest.skip("this Chromium has no software WebGPU adapter")
        state = gpu_page.evaluate(LOAD, "webgpu")
        assert (state["backend"], state["notes"]) == ("webgpu", [])
        on_gpu = gpu_page.evaluate(MASK, picture())
        engines = (worker for worker in gpu_page.workers if worker.url.endswith("worker.js"))
        worker = next(engine for engine in engines if engine.evaluate("Boolean(self.device)"))  # not one that was left
        worker.evaluate("self.device.destroy()")
        wait_until(gpu_page, "segmenter.refreshState().then(({ backend }) => backend === 'wasm')")
        assert "no longer used" in gpu_page.evaluate("segmenter.state.notes.join()")
        after = gpu_page.evaluate(
            """async () => {
                const { answers } = await segmenter.predict({ points: [{ x: 20, y: 30, label: 1 }] });
                return { ...(await segmenter.rle(answers[0].cells)), iou: answers[0].predictedIou };
            }"""
        )
        assert on_gpu["iou"] == pytest.approx(after["iou"], abs=1e-4)
        same = coco_to_mask(on_gpu["rle"]) == coco_to_mask(after["rle"])
        assert same.mean() > 0.999


def test_webgpu_that_computes_something_else_is_not_used(gpu_page: Any, tmp_path: Path) -> None:
    (tmp_path / "right").mkdir()
    golden = open_artifact(whole_artifact(tmp_path / "right")).read_golden()
    wrong = tuple(
        type(photo)(**{**photo.__dict__, "embedding_values": tuple(v + 1 for v in photo.embedding_values)})
        for photo in golden
    )
    small_artifact(tmp_path / "wrong", wrong)
    with serve(Site(site_files(tmp_path / "wrong"))) as url:
        gpu_page.goto(url)
        state = gpu_page.evaluate(LOAD, "webgpu")
        assert state["backend"] == "wasm"
        if gpu_page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"):
            assert "computes something else" in state["notes"][0]


def test_a_software_adapter_is_not_chosen_by_itself(gpu_page: Any, tmp_path: Path) -> None:
    with serve(Site(site_files(whole_artifact(tmp_path)))) as url:
        gpu_page.goto(url)
        state = gpu_page.evaluate(LOAD, "auto")
        assert state["backend"] == "wasm" and "WebGPU is not used" in state["notes"][0]
