from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sam_edge
from sam_edge.contract import Runtime
from sam_edge.errors import DataError
from sam_edge.evaluate.dataset import Record, open_records
from sam_edge.evaluate.simulate import tight_box
from sam_edge.image import Photo, read_photo
from sam_edge.train import engine
from sam_edge.train.engine import label_photos, read_boxes
from sam_edge.train.labelling import LabelConfig, Labeller

PHOTOS = Path(__file__).parents[2] / "sam_edge" / "assets" / "photos"
CUP = np.array([140.0, 60.0, 480.0, 360.0])  # of coffee.jpg, 600 x 400 px


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return sam_edge.load("nano", runtime="onnx", threads=1)


@pytest.fixture
def coffee() -> Photo:
    return read_photo(PHOTOS / "coffee.jpg")


def test_a_box_gets_the_mask_that_fills_it(runtime: Runtime, coffee: Photo) -> None:
    (label,) = Labeller(runtime).from_boxes(coffee, [CUP])
    assert label.origin == "box" and 0.72 <= label.agreement <= 1
    assert np.abs(tight_box(label.mask) - CUP).max() < 60
    entry = label.annotation(7, 3)
    assert entry["id"] == 7 and entry["image_id"] == 3 and entry["area"] == label.mask.sum()


def test_a_mask_that_the_looks_disagree_on_is_not_believed(runtime: Runtime, coffee: Photo) -> None:
    strict = Labeller(runtime, LabelConfig(min_agreement=1.01))
    assert strict.from_boxes(coffee, [CUP]) == []


def test_everything_mode_adds_no_object_that_is_annotated(runtime: Runtime, coffee: Photo) -> None:
    labeller = Labeller(runtime, LabelConfig(points_per_side=6, everything_min_agreement=0.6))
    found = labeller.from_everything(coffee, [])
    assert found and all(label.origin == "everything" and label.agreement >= 0.6 for label in found)
    again = labeller.from_everything(coffee, [label.mask for label in found])
    assert not any(
        (a.mask & b.mask).sum() / (a.mask | b.mask).sum() > LabelConfig().max_known_iou for a in again for b in found
    )


def photos_of(path: Path) -> list[Record]:
    return open_records([path], annotated=False)


def detections(path: Path, names: list[str]) -> Path:
    """A COCO detection file with the cup's box on each photo, given for a photo of twice the size."""
    images = [{"id": i, "file_name": name, "width": 1200, "height": 800} for i, name in enumerate(names)]
    x0, y0, x1, y1 = (2 * CUP).tolist()
    annotations = [{"id": i, "image_id": i, "bbox": [x0, y0, x1 - x0, y1 - y0]} for i in range(len(names))]
    annotations.append({"id": 99, "image_id": 0, "bbox": [0, 0, 9, 9], "iscrowd": 1})
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def test_labelled_photos_are_training_data_and_a_killed_run_continues(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PHOTOS_A_PART", 1)
    folder = tmp_path / "photos"
    folder.mkdir()
    names = ["a.jpg", "b.JPG"]
    for name in names:
        (folder / name).write_bytes((PHOTOS / "coffee.jpg").read_bytes())
    boxes = read_boxes(detections(tmp_path / "boxes.json", names))
    records, out = photos_of(folder), tmp_path / "labelled.tar"
    counts = label_photos(Labeller(runtime), records, out, boxes)
    assert (counts.photos, counts.labelled, counts.annotated, counts.broken) == (2, 2, 0, [])
    parts = [tmp_path / "labelled-000.tar", tmp_path / "labelled-001.tar"]
    first = parts[0].read_bytes()
    parts[1].unlink()  # as if killed after the first
    counts = label_photos(Labeller(runtime), records, out, boxes)
    assert (counts.photos, counts.skipped_parts) == (1, 1) and parts[0].read_bytes() == first
    labelled = open_records(parts)
    assert [record.name for record in labelled] == ["a", "b"]
    assert labelled[0].photo_bytes() == (PHOTOS / "coffee.jpg").read_bytes()
    (label,) = labelled[0].objects()
    assert np.abs(tight_box(label.mask()) - CUP).max() < 60


def test_annotated_objects_are_kept_and_labels_come_after_them(runtime: Runtime, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "a.jpg").write_bytes((PHOTOS / "coffee.jpg").read_bytes())
    label_photos(
        Labeller(runtime), photos_of(made), tmp_path / "one", read_boxes(detections(tmp_path / "b", ["a.jpg"]))
    )
    labeller = Labeller(runtime, LabelConfig(points_per_side=6, everything_min_agreement=0.5))
    label_photos(labeller, photos_of(tmp_path / "one-000.tar"), tmp_path / "two")
    (before,), (after,) = open_records([tmp_path / "one-000.tar"]), open_records([tmp_path / "two-000.tar"])
    entries = after.annotation["annotations"]
    assert entries[0] == before.annotation["annotations"][0]
    assert len(entries) > 1 and len({entry["id"] for entry in entries}) == len(entries)


def test_photos_that_cannot_be_read_are_named_and_too_many_stop_the_run(runtime: Runtime, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(picture, "JPEG")
    (folder / "good.jpg").write_bytes(picture.getvalue())
    (folder / "cut.jpg").write_bytes(picture.getvalue()[:200])
    counts = label_photos(Labeller(runtime), photos_of(folder), tmp_path / "out", {})
    assert counts.photos == 1 and len(counts.broken) == 1 and counts.broken[0].startswith(f"{folder}:cut: ")
    with tarfile.open(tmp_path / "out-000.tar") as tar:
        assert tar.getnames() == ["good.jpg", "good.json"]
    (folder / "empty.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 3 photos cannot be read"):
        label_photos(Labeller(runtime), photos_of(folder), tmp_path / "other", {})


@pytest.mark.parametrize("text", ["", "[]", '{"images": []}', '{"images": [{}], "annotations": []}'])
def test_a_file_that_holds_no_boxes_says_what_was_expected(tmp_path: Path, text: str) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(DataError, match="not a COCO detection file"):
        read_boxes(path)


def test_boxes_off_their_photo_are_left_out_and_counted(runtime: Runtime, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes((PHOTOS / "coffee.jpg").read_bytes())
    path = detections(tmp_path / "boxes.json", ["a.jpg"])
    found = json.loads(path.read_text())
    bad = [[1300, 10, 50, 50], [10, 10, 0, 90], [10, 10, -40, 20], [float("nan"), 10, 50, 50]]
    found["annotations"] += [{"id": 10 + i, "image_id": 0, "bbox": box} for i, box in enumerate(bad)]
    path.write_text(json.dumps(found))
    counts = label_photos(Labeller(runtime), photos_of(folder), tmp_path / "out", read_boxes(path))
    assert (counts.photos, counts.labelled, counts.unusable_boxes, counts.broken) == (1, 1, 4, [])
