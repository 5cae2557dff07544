"""How long a person waits, on the real page. Slow, and only meaningful on a quiet machine.

`SAM_EDGE_BROWSER_RECORD=benchmarks/results/browser.jsonl pytest -m slow tests/web/test_latency.py` appends one record
for each number of threads; without the variable the figures are only printed. docs/browser.md has the fields and the
figures: how late is too late depends on the machine, so no bound fails a test here.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.web.conftest import ASSETS
from tests.web.test_bad_input import static_host
from tests.web.test_page import OpenPage, at, click, idle, open_example

__all__ = ["static_host"]  # a fixture

pytestmark = pytest.mark.slow
CLICKS = 60
WARM_UP = 3
REST_MS = 200  # between arriving and pressing: people look at what they are about to click


def measure(open_page: OpenPage, url: str, browser: Any) -> dict[str, Any]:
    load_before = os.getloadavg()[0]
    page = open_page(url)
    threads = page.evaluate("samEdge.ready.then(segmenter => segmenter.state.threads)")
    open_example(page, 0)
    click(page, 0.5, 0.25)
    first_mask_ms = page.evaluate("samEdge.timings().firstMaskMs")
    page.evaluate("samEdge.kept")  # a static host's first visit stores the site meanwhile
    places = np.random.default_rng(7).uniform(0.05, 0.95, (CLICKS + WARM_UP, 2))
    clicks = click_durations(page, places, rest_ms=0)
    rested_clicks = click_durations(page, places, rest_ms=REST_MS)
    encodes = []
    for number in (1, 2, 0) * 4:
        page.evaluate("number => document.querySelectorAll('#examples button')[number].click()", number)
        page.wait_for_timeout(100)
        idle(page)
        encodes.append(page.evaluate("samEdge.timings().encodeMs"))
    manifest = json.loads((ASSETS / "nano" / "manifest.json").read_bytes())
    return {
        "schema": 1,
        "kind": "browser",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": "pytest -m slow tests/web/test_latency.py",
        "model": manifest["name"],
        "files_sha256": {name: entry["sha256"] for name, entry in manifest["files"].items() if name.endswith("onnx")},
        "browser": f"chromium {browser.version}",
        "backend": page.evaluate("samEdge.ready.then(segmenter => segmenter.state.backend)"),
        "threads": threads,
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "load_average": [load_before, os.getloadavg()[0]],
        **click_figures("click", clicks),
        "rest_ms": REST_MS,
        **click_figures("rested_click", rested_clicks),
        **{f"encode_p{percent}_ms": round(float(np.percentile(encodes, percent)), 1) for percent in (50, 90)},
        "first_mask_ms": round(first_mask_ms, 1),
    }


def click_durations(page: Any, places: Any, rest_ms: int) -> list[float]:
    """From event to drawn mask, for each place (x, y) after the first `WARM_UP`; the pointer rests there before.

    0 ms: moved and pressed in the same moment, so the preview has not been asked for before the click is.
    """
    before = len(page.evaluate("samEdge.timings().clicksMs"))
    for x, y in places:
        page.keyboard.press("Escape")  # each click is an object's first
        if rest_ms:
            page.mouse.move(*at(page, x, y))
            page.wait_for_timeout(rest_ms)
            page.mouse.down()  # not mouse.click(), which moves once more
            page.mouse.up()
            idle(page)
        else:
            click(page, x, y)
    durations: list[float] = page.evaluate("samEdge.timings().clicksMs")[before + WARM_UP :]
    assert len(durations) == len(places) - WARM_UP
    return durations


def click_figures(name: str, durations: list[float]) -> dict[str, float]:
    return {
        f"{name}s": len(durations),
        **{f"{name}_p{percent}_ms": round(float(np.percentile(durations, percent)), 2) for percent in (50, 90, 99)},
        f"{name}_min_ms": round(min(durations), 2),
    }


def commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@pytest.mark.parametrize("threads", ["1", "2"])
def test_how_long_a_person_waits_is_recorded(
    open_page: OpenPage, browser: Any, address: str, static_host: tuple[str, Path], threads: str
) -> None:
    time.sleep(1)
    record = measure(open_page, address if threads == "2" else static_host[0], browser)
    print(json.dumps(record))
    assert record["threads"] == int(threads)
    assert record["clicks"] == record["rested_clicks"] == CLICKS
    assert all(value > 0 for name, value in record.items() if name.endswith("_ms"))
    assert record["rested_click_p50_ms"] < record["click_p50_ms"]  # its mask was drawn while the pointer rested
    destination = os.environ.get("SAM_EDGE_BROWSER_RECORD")
    if not destination:
        return
    with Path(destination).open("a") as file:
        file.write(json.dumps(record) + "\n")
