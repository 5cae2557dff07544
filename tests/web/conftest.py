"""A real browser on the real page. Without Chromium or Playwright these tests are skipped, and say so."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import sam_edge
from sam_edge.image import Photo, read_photo
from sam_edge.web.folder import PhotoFolder
from sam_edge.web.server import Site, make_server, site_files

ASSETS = Path(sam_edge.__file__).parent / "assets"
PHOTOS = ASSETS / "photos"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = (
    "--no-sandbox",  # a container's root has no other way
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MS = 120_000  # a machine that trains at the same time is slow
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


@contextmanager
def serve(site: Site, port: int = 0) -> Iterator[str]:
    """The address of a server that runs meanwhile."""
    server = make_server(site, port=port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def files() -> dict[str, Path]:
    return site_files(ASSETS / "nano")


@pytest.fixture(scope="session")
def address(files: dict[str, Path]) -> Iterator[str]:
    with serve(Site(files)) as url:
        yield url


@pytest.fixture
def labelling(files: dict[str, Path], tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server for a folder of two photos, and the folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("chelsea", "coffee"):
        shutil.copy(PHOTOS / f"{name}.jpg", folder / f"{name}.jpg")
    with serve(Site(files, PhotoFolder(folder))) as url:
        yield url, folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open an address; at the end no console error, no uncaught error and no foreign request may have been seen."""
    contexts, complaints = [], []

    def open_address(url: str, *, expected_errors: tuple[str, ...] = (), wait: bool = True, **options: Any) -> Any:
        context = browser.new_context(**({"viewport": DESKTOP, "accept_downloads": True} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)

        def note(text: str) -> None:
            if not any(part in text for part in expected_errors):
                complaints.append(text)

        page.on("console", lambda message: note(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: note(str(error)))
        origin = "/".join(url.split("/")[:3])
        page.on("request", lambda request: None if _is_own(request.url, origin) else note(f"asked {request.url}"))
        page.goto(url)
        if wait:
            page.evaluate("samEdge.ready")
        return page

    yield open_address
    for context in contexts:
        context.close()
    assert not complaints


def _is_own(url: str, origin: str) -> bool:
    return url.startswith((origin, "blob:", "data:"))


@pytest.fixture(scope="session")
def nano_page(browser: Any, address: str) -> Iterator[Any]:
    """One page with the model loaded, for tests that only call the engine."""
    page = browser.new_page(viewport=DESKTOP)
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(address)
    page.evaluate("samEdge.ready.then(segmenter => { window.segmenter = segmenter; })")
    yield page
    page.close()


@pytest.fixture(scope="session")
def predictor() -> sam_edge.SamPredictor:
    return sam_edge.SamPredictor(sam_edge.load("nano", threads=1))


def photo(name: str) -> Photo:
    return read_photo(PHOTOS / f"{name}.jpg")


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the page are kept: SAM_EDGE_SCREENSHOTS, or a temporary folder."""
    folder = Path(os.environ.get("SAM_EDGE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
