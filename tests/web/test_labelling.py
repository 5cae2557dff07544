"""`sam-edge web DIR`: the three gears, and the JSON beside the photos."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

from sam_edge.evaluate.dataset import open_records
from tests.cli.command_line import run, start
from tests.web.conftest import PHOTOS
from tests.web.test_page import OpenPage, click, idle, objects, wait_for_status, wait_until


def wait_for_photo(page: Any, name: str) -> None:
    wait_until(page, "name => samEdge.photo()?.name === name", name)
    idle(page)


def test_assisted_saves_goes_on_and_resumes(
    open_page: OpenPage, labelling: tuple[str, Path], screenshots: Path
) -> None:
    url, folder = labelling
    page = open_page(url)
    wait_for_photo(page, "chelsea.jpg")
    click(page, 0.45, 0.4)
    page.fill("#objects input", "cat")
    page.screenshot(path=screenshots / "labelling.png")
    page.click("#save")
    wait_for_photo(page, "coffee.jpg")
    assert sorted(path.name for path in folder.iterdir()) == ["chelsea.jpg", "chelsea.json", "coffee.jpg"]
    (record,) = open_records([folder])
    (cat,) = record.objects()
    assert cat.category == "cat" and cat.area > 1000

    again = open_page(url)  # another day: the first photo without labels
    wait_for_photo(again, "coffee.jpg")
    assert "1 done" in again.locator("#folder-place").text_content()
    again.click("#previous")
    wait_for_photo(again, "chelsea.jpg")
    wait_for_status(again, "1 objects of the saved file")
    (restored,) = objects(again)
    assert restored["name"] == "cat" and restored["area"] == cat.area
    click(again, 0.1, 0.1)  # another object beside it
    assert len(objects(again)) == 2
    again.click("#save")
    wait_for_photo(again, "coffee.jpg")
    (record,) = open_records([folder])
    assert next(found.area for found in record.objects(0)) == cat.area
    assert len(record.annotation["annotations"]) == 2
    again.keyboard.press("s")  # a photo on which there is nothing
    wait_for_status(again, "Every photo of this folder is labelled")
    assert json.loads((folder / "coffee.json").read_bytes())["annotations"] == []


def test_semi_automatic_proposes_what_the_model_is_sure_of(open_page: OpenPage, labelling: tuple[str, Path]) -> None:
    url, _ = labelling
    page = open_page(f"{url}/?points=8")
    wait_for_photo(page, "chelsea.jpg")
    page.select_option("#gear", "semi")
    wait_for_status(page, "objects found")
    proposed = objects(page)
    sure = page.evaluate(
        "samEdge.labels().objects.every(({ proposed, predictedIou }) => proposed && predictedIou > 0.85)"
    )
    assert sure
    click(page, 0.45, 0.4)
    assert len(objects(page)) == len(proposed) + 1


def test_automatic_goes_through_the_folder(open_page: OpenPage, labelling: tuple[str, Path]) -> None:
    url, folder = labelling
    page = open_page(f"{url}/?points=6")
    wait_for_photo(page, "chelsea.jpg")
    page.select_option("#gear", "automatic")
    wait_for_status(page, "Every photo of this folder is labelled")
    records = open_records([folder])
    assert len(records) == 2 and all(record.objects() for record in records)


def test_the_command_prints_its_address_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    process = start("web", "--no-open", "--json", cwd=tmp_path)
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
    finally:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr


def test_the_command_refuses_what_is_no_folder(tmp_path: Path) -> None:
    done = run("web", PHOTOS / "coffee.jpg", "--no-open", cwd=tmp_path)
    assert done.returncode == 1 and "is not a folder" in done.stderr
    done = run("web", "--model", tmp_path, "--no-open", cwd=tmp_path)
    assert done.returncode == 1 and "manifest.json" in done.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("mine")
    done = run("web", "--save-site", "mine", cwd=tmp_path)
    assert done.returncode == 1 and (tmp_path / "mine" / "precious.txt").exists()
