from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sam_edge.benchmarks.cards import PAGES, RESULTS, render

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", [str(page) for page in PAGES])
def test_the_figures_on_a_page_are_those_of_the_committed_records(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- figures:" in text
    assert render(text, ROOT / RESULTS) == text, "run: make cards"


def test_a_changed_record_changes_the_page(tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(ROOT / RESULTS, results)
    record = results / "nano-quality.jsonl"
    record.write_text(record.read_text().replace('"miou_percent": ', '"miou_percent": 1'))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert render(text, results) != text


def test_a_block_without_a_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "nano-quality.jsonl").write_text("")
    with pytest.raises(KeyError, match="cocoval"):
        render("<!-- figures: quality cocoval -->\n<!-- end -->", tmp_path)
