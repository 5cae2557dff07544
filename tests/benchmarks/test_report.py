from __future__ import annotations

import base64
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sam_edge.benchmarks.report import MOST_DRAWN, write_report
from sam_edge.benchmarks.svg import linear_ticks, log_ticks, shown
from sam_edge.errors import DataError
from tests.benchmarks.made_records import made_record, made_run
from tests.sa1b import PHOTOS

NAMES = ["nano onnx fp32", "nano openvino int8", "nano tflite int8"]


def quality(iou: float, truth: bool = True) -> dict[str, Any]:
    kind: dict[str, Any] = {"objects": 9, "mask_iou_mean": iou, "mask_iou_p5": iou - 0.1, "mask_iou_min": iou - 0.2}
    if truth:
        kind |= {"miou_percent": 70.0, "miou_low_percent": 68.0, "miou_high_percent": 72.0, "retention": 0.99}
    data = {"name": "bundled", "photos": 3, "ground_truth": truth, "sha256": "0"}
    return {"data": data, "reference": {"name": "nano torch"}, "kinds": {"box": kind, "click": kind}}


def full_run(truth: bool = True) -> list[dict[str, Any]]:
    picture = base64.b64encode((PHOTOS / "coffee.jpg").read_bytes()[:500]).decode()
    worst = {"kind": "box", "photo": "coffee", "object_id": 3, "mask_iou": 0.71, "picture_jpeg_base64": picture}
    windows = [{"start_s": 10.0 * i, "p50_ms": 40 + i, "iterations": 200} for i in range(4)]
    scenarios = {"prompts_16": {"p50_ms": 90.0}, "everything": {"p50_ms": 5000.0, "masks": 54}}
    records = made_run(NAMES, 1, scenarios=scenarios | {"sustained": {"windows": windows}}, worst=[worst])
    return [record | {"quality": quality(0.99 - i / 50, truth)} for i, record in enumerate(records)]


class Page(HTMLParser):
    """Collects headings and addresses, and refuses a page whose tags do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_the_page_is_one_file_with_every_part_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    markdown, html = write_report(full_run(), tmp_path / "new" / "folder")
    text = html.read_text()
    page = Page(text)
    parts = ["Accuracy against latency", "Where the time goes", "How much it varies", "Over time", "The worst masks"]
    parts += ["Many prompts, and everything", "Masks by prompt", "How this was measured"]
    assert set(parts) <= set(page.headings)
    assert "What a larger input buys" not in page.headings  # one size
    assert all(address.startswith("data:") for address in page.addresses)
    assert "<script" not in text and "prefers-color-scheme: dark" in text and "url(" not in text
    assert "| tflite int8 |" in markdown.read_text()


def test_several_sizes_make_a_ladder(tmp_path: Path) -> None:
    names = {256: 0.4, 512: 1.0, 1024: 4.0}
    records = [
        made_record(f"nano onnx fp32 {size}", i, scale=scale, quality=quality(0.9 + i / 50))
        for i, (size, scale) in enumerate(names.items())
    ]
    _, html = write_report(records, tmp_path)
    assert "What a larger input buys" in Page(html.read_text()).headings


def test_without_ground_truth_the_front_shows_agreement_with_the_reference(tmp_path: Path) -> None:
    _, html = write_report(full_run(truth=False), tmp_path)
    assert "mask IoU with the reference, %" in html.read_text()


def test_rows_that_were_not_measured_are_listed_with_their_reason_and_escaped(tmp_path: Path) -> None:
    crashed = {k: v for k, v in made_record("evil onnx fp32", 5).items() if k not in ("stages", "memory", "load_ms")}
    crashed |= {"status": "crashed", "reason": "<script>alert(1)</script> & more", "stderr_tail": "<b>why</b>"}
    _, html = write_report([*full_run(), crashed], tmp_path)
    text = html.read_text()
    Page(text)
    assert "evil onnx fp32" in text and "&lt;script&gt;alert(1)" in text and "<script" not in text


def test_records_of_two_machines_are_two_parts_of_the_page(tmp_path: Path) -> None:
    other = [r | {"machine": r["machine"] | {"cpu": "another"}} for r in made_run(NAMES, 2)]
    _, html = write_report([*full_run(), *other], tmp_path)
    headings = Page(html.read_text()).headings
    assert "made, 2 cores" in headings and "another, 2 cores" in headings


def test_only_failures_still_make_a_page_and_no_record_is_an_error(tmp_path: Path) -> None:
    record = {k: v for k, v in made_record(NAMES[0], 1).items() if k != "stages"} | {"status": "failed", "reason": "x"}
    write_report([record], tmp_path)
    with pytest.raises(DataError, match="no record"):
        write_report([], tmp_path)


def test_a_thousand_records_take_less_than_ten_seconds(tmp_path: Path) -> None:
    """In processor time of this process, so that a busy machine changes nothing."""
    base = full_run()[0]
    records = [
        base | {"configuration": base["configuration"] | {"name": f"m{i}", "model": f"m{i}"}} for i in range(1000)
    ]
    start = time.process_time()
    _, html = write_report(records, tmp_path)
    assert time.process_time() - start < 10
    assert f"The {MOST_DRAWN} fastest of 1000" in html.read_text()
    assert html.stat().st_size < 4 << 20


def test_ticks_are_round_and_figures_have_three_digits() -> None:
    assert linear_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert log_ticks(3, 60) == [5, 10, 20, 50]
    assert [shown(x) for x in (0, 0.01234, 1.234, 12.34, 123.4, 1234.5)] == [
        "0",
        "0.0123",
        "1.23",
        "12.3",
        "123",
        "1,234",
    ]
    assert re.fullmatch(r"[0-9,.]+", shown(98765.4))


def test_operators_are_shown_against_the_ceiling_of_their_own_precision(tmp_path: Path) -> None:
    op = {"calls": 1, "ms": 1.0, "share_percent": 50.0, "gflop_per_s": 20.0, "gb_per_s": 1.0}
    graphs = {"encoder": [op | {"type": "Conv"}, op | {"type": "QLinearConv"}]}
    ceilings = {"matmul_float32_gflop_per_s": 40.0, "matmul_int8_gop_per_s": 100.0, "copy_gb_per_s": 10.0}
    record = made_record(NAMES[0], 1, profile={"runs": 1, "graphs": graphs}, ceilings=ceilings)
    markdown, _ = write_report([record], tmp_path)
    text = markdown.read_text()
    assert "| Conv | 1 | 1.00 | 50 % | 20.0 | 50 % | 1.00 | 10 % |" in text
    assert "| QLinearConv | 1 | 1.00 | 50 % | 20.0 | 20 % | 1.00 | 10 % |" in text
