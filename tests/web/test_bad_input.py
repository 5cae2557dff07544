"""What a page may meet: files that are no photos, browsers that lack something, models that were changed."""

from __future__ import annotations

import functools
import http.server
import io
import json
import shutil
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_edge.cli import main
from sam_edge.rle import coco_to_mask
from sam_edge.web.server import Site
from tests.web.conftest import PHOTOS, serve
from tests.web.test_page import (
    OpenPage,
    click,
    drop,
    idle,
    objects,
    open_example,
    saved,
    status,
    wait_for_status,
    wait_until,
)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk


COFFEE = (PHOTOS / "coffee.jpg").read_bytes()
FILES = {
    "text": ("notes.jpg", b"Dear diary", "no photo"),
    "script": ("picture.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", "no photo"),
    "empty": ("empty.png", b"", "empty"),
    "broken": ("broken.png", encoded(Image.new("RGB", (60, 40)), "PNG")[:50] + b"\0" * 90, "damaged"),
    "header only": ("header.jpg", COFFEE[:400], "damaged"),
    "bomb": ("bomb.png", png_claiming(20_000, 20_000), "400,000,000 pixels"),
}


def test_files_that_are_no_photos_are_refused_and_the_page_goes_on(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    open_example(page)
    for name, data, part in FILES.values():
        drop(page, name, data)
        wait_for_status(page, part)
        assert page.locator("#status.error").is_visible()
        assert page.evaluate("samEdge.photo().name") == "coffee.jpg"  # what was open stays
    click(page, 0.5, 0.25)
    assert len(objects(page)) == 1 and not page.locator("#status.error").is_visible()


def test_photos_of_other_kinds(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    coffee = Image.open(PHOTOS / "coffee.jpg")
    frames = [coffee.resize((120, 80)), Image.new("RGB", (120, 80), "red")]
    exif = Image.Exif()
    exif[0x0112] = 6
    cases = {
        "moving.gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), [80, 120]),
        "moving.webp": (encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]), [80, 120]),
        "turned.jpg": (encoded(coffee, "JPEG", exif=exif), [600, 400]),
        "clear.png": (encoded(Image.new("RGBA", (70, 50), (255, 0, 0, 0)), "PNG"), [50, 70]),
        "grey.bmp": (encoded(Image.new("L", (70, 50), 90), "BMP"), [50, 70]),
        "dot.png": (encoded(Image.new("RGB", (1, 1)), "PNG"), [1, 1]),
        "line.png": (encoded(Image.new("RGB", (1, 700)), "PNG"), [700, 1]),
    }
    for name, (data, size) in cases.items():
        drop(page, name, data)
        wait_until(page, "name => samEdge.photo()?.name === name", name)
        assert page.evaluate("samEdge.photo().originalSize") == size, name
    page.evaluate("samEdge.ready.then(segmenter => segmenter.predict({ points: [{ x: 0.5, y: 0.5, label: 1 }] }))")


def test_100_megapixels_are_shrunk_and_labelled_at_their_own_size(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    side = 10_000
    big = Image.new("L", (side, side), 40)
    big.paste(220, (2_500, 2_500, 7_500, 7_500))
    page.evaluate("name => { window.bigName = name; }", "big.jpg")
    page.set_input_files(
        "#file", {"name": "big.jpg", "mimeType": "image/jpeg", "buffer": encoded(big, "JPEG", quality=30)}
    )
    del big
    wait_until(page, "samEdge.photo()?.name === 'big.jpg'")
    opened = page.evaluate("samEdge.photo()")
    assert opened["originalSize"] == [side, side]
    assert opened["size"][0] * opened["size"][1] <= 1_500_000
    assert "100 megapixels" in status(page)
    click(page, 0.5, 0.5)
    document = json.loads(saved(page, "sa1b")[1])
    assert (document["image"]["width"], document["image"]["height"]) == (side, side)
    mask = coco_to_mask(document["annotations"][0]["segmentation"])
    assert mask.shape == (side, side)
    assert document["annotations"][0]["point_coords"][0] == pytest.approx([side / 2, side / 2], abs=50)
    click_area = objects(page)[0]["area"] / (opened["size"][0] * opened["size"][1])
    assert mask.mean() == pytest.approx(click_area, abs=0.002)
    name, png = saved(page, "mask")
    assert name == "big.object-1.mask.png" and Image.open(io.BytesIO(png)).width == opened["size"][1]


def test_the_address_of_a_picture_is_not_fetched(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    page.evaluate(
        """() => {
            const transfer = new DataTransfer();
            transfer.setData("text/uri-list", "https://other.example/cat.jpg");
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
        }"""
    )
    assert "fetches nothing" in status(page)


def test_a_tainted_canvas_is_refused_with_a_way_out(open_page: OpenPage, address: str) -> None:
    page = open_page(address, bypass_csp=True, expected_errors=("other.example",))
    headers = {"Cross-Origin-Resource-Policy": "cross-origin"}
    page.route(
        "https://other.example/cat.png", lambda route: route.fulfill(path=PHOTOS / "chelsea.jpg", headers=headers)
    )
    message = page.evaluate(
        """async () => {
            const picture = new Image();
            picture.src = "https://other.example/cat.png";
            await picture.decode();
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [picture.width, picture.height];
            canvas.getContext("2d").drawImage(picture, 0, 0);
            const segmenter = await samEdge.ready;
            return segmenter.setImage(canvas).then(() => "", error => error.kind + ": " + error.message);
        }"""
    )
    assert message.startswith("image: ") and "another site" in message
    clean = "samEdge.ready.then(s => s.setImage(document.querySelector('#examples img'))).then(({ size }) => size)"
    assert page.evaluate(clean) == [400, 600]


def test_without_simd_the_page_says_which_browser_has_it(open_page: OpenPage, address: str, browser: Any) -> None:
    context = browser.new_context()
    context.add_init_script("WebAssembly.validate = () => false;")
    page = context.new_page()
    page.goto(address)
    page.evaluate("samEdge.ready")
    assert "WebAssembly SIMD" in status(page) and "Safari" in status(page)
    page.click("#examples button")  # asked again, it says so again
    page.wait_for_timeout(300)
    idle(page)
    assert "WebAssembly SIMD" in status(page)
    context.close()


@pytest.fixture(scope="module")
def static_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The site on a plain file server, which knows nothing of isolation."""
    site = tmp_path_factory.mktemp("static") / "site"
    assert main(["web", "--save-site", str(site)]) == 0

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", site
    server.shutdown()
    server.server_close()


def test_on_any_static_host_with_one_thread_and_the_reason(
    open_page: OpenPage, static_host: tuple[str, Path], nano_page: Any
) -> None:
    page = open_page(static_host[0])
    assert page.evaluate("crossOriginIsolated") is False
    open_example(page)
    wait = "document.getElementById('engine').textContent.includes('One thread only')"
    wait_until(page, wait)
    assert "COOP" in page.locator("#engine").text_content()
    click(page, 0.5, 0.25)
    (cup,) = page.evaluate("samEdge.document()")["annotations"]
    mask = coco_to_mask(cup["segmentation"])
    page_two = open_page_like(nano_page, cup["point_coords"][0])
    np.testing.assert_array_equal(coco_to_mask(page_two["rle"]), mask)  # threads change no pixel


def open_page_like(page: Any, point: list[float]) -> Any:
    return page.evaluate(
        """async ([x, y]) => {
            await segmenter.setImage(await (await fetch("examples/coffee.jpg")).blob());
            const { answers } = await segmenter.predict({ points: [{ x, y, label: 1 }] });
            return segmenter.rle(answers[0].cells);
        }""",
        point,
    )


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("hash", "is not the file that its manifest names"),
        ("length", "bytes, expected at most that"),
        ("manifest", "anifest.json cannot be used"),
        ("missing", "404"),
    ],
)
def test_a_model_that_was_changed_is_not_run(
    open_page: OpenPage, files: dict[str, Path], tmp_path: Path, fault: str, part: str
) -> None:
    changed = dict(files)
    if fault == "missing":
        del changed["model/decoder.onnx"]
    else:
        name = "model/manifest.json" if fault == "manifest" else "model/decoder.onnx"
        copy = shutil.copy(files[name], tmp_path / Path(name).name)
        data = bytearray(Path(copy).read_bytes())
        if fault == "manifest":
            data = bytearray(data.replace(b'"high_res_features_0"', b'"high_res_features_9"'))
        elif fault == "hash":
            data[len(data) // 2] ^= 1
        else:
            data += b"\0"
        Path(copy).write_bytes(data)
        changed[name] = Path(copy)
    with serve(Site(changed)) as url:
        page = open_page(url, expected_errors=("404",))
        wait_for_status(page, part)
        assert page.locator("#status.error").is_visible()
        page.click("#examples button")
        page.wait_for_timeout(200)
        idle(page)
        assert page.locator("#status.error").is_visible() and not page.locator("#panel").is_visible()
