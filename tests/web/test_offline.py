"""A saved site without a network: what the browser keeps of it, when that is used, and when it is not."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam_edge.cli import main
from sam_edge.web.folder import PhotoFolder
from sam_edge.web.server import Site, site_files
from tests.small_artifact import whole_artifact
from tests.web.conftest import PHOTOS, serve
from tests.web.test_labelling import wait_for_photo
from tests.web.test_page import OpenPage, click, masks, open_example, wait_for_status

ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
UNREACHABLE = ("ERR_CONNECTION_REFUSED", "An unknown error occurred when fetching the script")  # what a browser logs


class StaticHost:
    """A plain file server that can go away; nothing of it is ours."""

    def __init__(self, site: Path, headers: dict[str, str]) -> None:
        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def end_headers(self) -> None:
                for name, value in headers.items():
                    self.send_header(name, value)
                super().end_headers()

        self.site = site
        self._server: http.server.ThreadingHTTPServer | None = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(site))
        )
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._server = None


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return whole_artifact(tmp_path / "model")


@pytest.fixture
def small_host(tmp_path: Path, small_model: Path) -> Iterator[StaticHost]:
    """A saved site with a model of a few numbers."""
    host = StaticHost(save_site(tmp_path / "site", "--model", str(small_model)), {})
    yield host
    host.stop()


@pytest.fixture(scope="module")
def nano_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_site(tmp_path_factory.mktemp("nano") / "site")


def save_site(folder: Path, *options: str) -> Path:
    assert main(["web", "--save-site", str(folder), *options]) == 0
    return folder


def reload(page: Any) -> None:
    page.reload()
    page.evaluate("samEdge.ready")


def kept_files(page: Any) -> dict[str, list[str]]:
    """Cache -> the addresses in it, without the site's own part."""
    found: dict[str, list[str]] = page.evaluate(
        """async () => Object.fromEntries(await Promise.all((await caches.keys()).map(async name => {
            const requests = await (await caches.open(name)).keys();
            return [name, requests.map(({ url }) => url.replace(document.baseURI, ""))];
        })))"""
    )
    return found


@pytest.mark.parametrize("headers", [{}, ISOLATION], ids=["plain", "isolated"])
def test_the_second_visit_needs_no_network(open_page: OpenPage, nano_site: Path, headers: dict[str, str]) -> None:
    host = StaticHost(nano_site, headers)
    page = open_page(host.url, expected_errors=UNREACHABLE)
    assert page.evaluate("samEdge.kept") is True
    assert "opens without a network" in page.locator("#engine").text_content()
    open_example(page)
    click(page, 0.5, 0.25)
    (online,) = masks(page)

    host.stop()
    reload(page)
    assert page.evaluate("crossOriginIsolated") is bool(headers)
    threads = page.evaluate("samEdge.ready.then(segmenter => segmenter.state.threads)")
    assert (threads > 1) == (bool(headers) and page.evaluate("navigator.hardwareConcurrency") > 1)
    open_example(page)
    click(page, 0.5, 0.25)
    (offline,) = masks(page)
    assert online.any()
    np.testing.assert_array_equal(offline, online)
    page.reload()  # and again, from a worker that has been asked before
    assert page.evaluate("samEdge.kept") is True


def test_what_is_kept_is_the_site_and_nothing_else(open_page: OpenPage, small_host: StaticHost) -> None:
    page = open_page(small_host.url)
    assert page.evaluate("samEdge.kept") is True
    listed = json.loads((small_host.site / "site.json").read_bytes())["offline"]["files"]
    without_gpu = {name for name in listed if ".jspi." not in name}  # this Chromium has none
    (names,) = kept_files(page).values()
    assert set(names) == {"" if name == "index.html" else name for name in without_gpu} | {"site.json"}
    (small_host.site / "mine.txt").write_text("nothing of the site")
    reload(page)
    open_example(page)
    assert page.evaluate("fetch('mine.txt').then(answer => answer.text())") == "nothing of the site"
    assert list(kept_files(page).values()) == [names]


def test_another_build_is_shown_at_once_and_replaces_the_one_that_was_kept(
    open_page: OpenPage, nano_site: Path, small_model: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    shutil.copytree(nano_site, site)
    host = StaticHost(site, {})
    page = open_page(host.url, expected_errors=UNREACHABLE)
    assert page.evaluate("samEdge.kept") is True
    reload(page)
    assert "Model nano" in page.locator("#engine").text_content()
    (before,) = kept_files(page)

    save_site(site, "--model", str(small_model))
    reload(page)
    assert "Model small" in page.locator("#engine").text_content()  # whole from the network: hashes fit
    assert page.evaluate("samEdge.kept") is True
    (after,) = kept_files(page)
    assert after != before

    host.stop()
    reload(page)
    assert "Model small" in page.locator("#engine").text_content()


def test_the_html_is_asked_of_the_network_first(open_page: OpenPage, small_host: StaticHost) -> None:
    page = open_page(small_host.url)
    assert page.evaluate("samEdge.kept") is True
    html = small_host.site / "index.html"
    html.write_text(re.sub("<title>.*</title>", "<title>Somebody's own</title>", html.read_text()))
    later = html.stat().st_mtime + 2  # hosts tell a file's age in whole seconds, and this one is younger than that
    os.utime(html, (later, later))
    reload(page)
    assert page.title() == "Somebody's own"


def test_a_kept_model_is_hashed_as_any_other(open_page: OpenPage, small_host: StaticHost) -> None:
    page = open_page(small_host.url)
    assert page.evaluate("samEdge.kept") is True
    page.evaluate(
        """async () => {
            const cache = await caches.open((await caches.keys())[0]);
            const bytes = new Uint8Array(await (await cache.match("model/decoder.onnx")).arrayBuffer());
            bytes[bytes.length >> 1] ^= 1;
            await cache.put("model/decoder.onnx", new Response(bytes));
        }"""
    )
    page.reload()
    wait_for_status(page, "is not the file that its manifest names")


def test_half_a_site_is_not_kept(open_page: OpenPage, small_host: StaticHost) -> None:
    (small_host.site / "examples" / "chelsea.jpg").write_bytes((PHOTOS / "coffee.jpg").read_bytes())
    page = open_page(small_host.url)
    assert page.evaluate("samEdge.kept") is False
    assert "could not be kept" in page.locator("#engine").text_content()
    assert kept_files(page) == {}


def test_the_local_server_is_not_kept_and_is_right_where_a_kept_site_was(
    open_page: OpenPage, small_host: StaticHost, small_model: Path, tmp_path: Path
) -> None:
    page = open_page(small_host.url)
    assert page.evaluate("samEdge.kept") is True
    small_host.stop()
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("chelsea", "coffee"):
        shutil.copy(PHOTOS / f"{name}.jpg", folder / f"{name}.jpg")
    with serve(Site(site_files(small_model), PhotoFolder(folder)), small_host.port):
        reload(page)
        assert page.evaluate("samEdge.kept") is False
        assert page.evaluate("navigator.serviceWorker.controller") is not None  # the site's, which steps aside
        wait_for_photo(page, "chelsea.jpg")
        page.keyboard.press("s")
        wait_for_photo(page, "coffee.jpg")
        assert (folder / "chelsea.json").is_file()
        labelled = "fetch('api/photos').then(answer => answer.json()).then(photos => photos.map(p => p.labelled))"
        assert page.evaluate(labelled) == [True, False]
        (folder / "chelsea.json").unlink()
        assert page.evaluate(labelled) == [False, False]
        (names,) = kept_files(page).values()
        assert not [name for name in names if name.startswith("api/")]


def test_the_local_server_registers_nothing(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    assert page.evaluate("samEdge.kept") is False
    assert page.evaluate("navigator.serviceWorker.getRegistrations().then(all => all.length)") == 0
    assert kept_files(page) == {}
    assert "kept" not in page.locator("#engine").text_content()
