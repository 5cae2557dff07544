from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_edge.errors import DataError
from sam_edge.evaluate.dataset import open_records
from sam_edge.quantize.calibrate import check_apart, photo_files, read_calibration
from tests.sa1b import PHOTOS, write_set, write_tar
from tests.small_artifact import SPEC


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_set(tmp_path / "photos")


def test_photos_of_a_folder_and_of_its_tars_are_read(folder: Path, tmp_path: Path) -> None:
    loose = read_calibration(folder, SPEC)
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "photos.tar", folder)
    packed = read_calibration(tmp_path / "tars", SPEC)
    assert sorted(loose.names) == ["astronaut.jpg", "chelsea.jpg", "coffee.jpg"]
    assert loose.images[0].shape == (1, 3, 64, 64) and loose.images[0].dtype == np.float32
    assert all(np.array_equal(a, b) for a, b in zip(loose.images, packed.images, strict=True))


def test_a_broken_photo_is_skipped_counted_and_named(folder: Path) -> None:
    (folder / "broken.jpg").write_bytes((PHOTOS / "coffee.jpg").read_bytes()[:3000])
    (folder / "words.png").write_text("no photo")
    found = read_calibration(folder, SPEC)
    assert len(found.images) == 3 and set(found.skipped) == {"broken.jpg", "words.png"}
    assert "is not a photo" in found.skipped["words.png"]


def test_what_a_data_set_would_not_read_does_not_calibrate(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for kind in ("bmp", "gif", "tif"):
        Image.open(PHOTOS / "coffee.jpg").save(other / f"coffee.{kind}")
    with pytest.raises(DataError, match=r"has no photo \(\.jpg, \.jpeg, \.png, \.webp\)"):
        photo_files(other)


def test_a_few_photos_of_many_are_the_same_every_time(folder: Path) -> None:
    first, second = (read_calibration(folder, SPEC, count=2) for _ in range(2))
    assert first.names == second.names and len(first.images) == 2


@pytest.mark.parametrize("content", ["nothing", "words", "broken"])
def test_a_folder_without_a_usable_photo_is_refused(tmp_path: Path, content: str) -> None:
    if content == "words":
        (tmp_path / "notes.txt").write_text("no photos here")
    elif content == "broken":
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"can be read \(broken|has no photo"):
        read_calibration(tmp_path, SPEC)


def test_a_missing_folder_and_a_broken_tar_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder, expected one with photos to calibrate on"):
        photo_files(tmp_path / "none")
    (tmp_path / "photos.tar").write_bytes(b"\x00garbage" * 100)
    with pytest.raises(DataError, match=r"photos\.tar cannot be read as a tar"):
        photo_files(tmp_path)


def test_photos_that_judge_the_result_are_refused_whatever_they_are_called(folder: Path, tmp_path: Path) -> None:
    judged = open_records([write_set(tmp_path / "judged")])
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(PHOTOS / "coffee.jpg", other / "renamed.jpg")
    with pytest.raises(DataError, match=r"renamed\.jpg in .* is also among the photos that judge the result"):
        read_calibration(other, SPEC, judged_by=judged)
    with pytest.raises(DataError, match="is also among the photos that judge the result"):
        check_apart(open_records([folder]), judged, "photos")
