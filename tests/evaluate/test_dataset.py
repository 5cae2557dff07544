"""Annotations as anybody may have written them: checked before code that trusts them sees a mask, and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_edge.errors import DataError, ImageError
from sam_edge.evaluate.dataset import Record, open_records
from sam_edge.rle import mask_to_rle, rle_to_coco

HEIGHT, WIDTH = 30, 40
MASK = np.zeros((HEIGHT, WIDTH), np.bool_)
MASK[5:20, 8:30] = True
RUNS = mask_to_rle(MASK)["counts"]
STRING = rle_to_coco(mask_to_rle(MASK))["counts"]


def annotated(segmentation: Any, **image: Any) -> dict[str, Any]:
    entry = {"id": 7, "area": int(MASK.sum()), "segmentation": segmentation}
    return {"image": {"height": HEIGHT, "width": WIDTH, **image}, "annotations": [entry]}


def record_of(folder: Path, annotation: Any) -> Record:
    """The one photo of a folder, with this beside it."""
    Image.new("RGB", (WIDTH, HEIGHT), "teal").save(folder / "one.png")
    text = annotation if isinstance(annotation, bytes) else json.dumps(annotation).encode()
    (folder / "one.json").write_bytes(text)
    (record,) = open_records([folder])
    return record


@pytest.mark.parametrize("counts", [RUNS, STRING])
def test_masks_of_both_kinds_of_counts_are_the_drawn_ones(tmp_path: Path, counts: Any) -> None:
    (found,) = record_of(tmp_path, annotated({"size": [HEIGHT, WIDTH], "counts": counts})).objects()
    assert (found.id, found.area, found.size) == (7, MASK.sum(), (HEIGHT, WIDTH))
    np.testing.assert_array_equal(found.mask(), MASK)


@pytest.mark.parametrize(
    ("counts", "part"),
    [
        ([*RUNS[:-1], RUNS[-1] - 1], "cover 1199 pixels, expected 30 x 40 = 1200"),
        ([*RUNS, 1], "cover 1201 pixels, expected 30 x 40 = 1200"),
        ([HEIGHT * WIDTH + 1, -1], "cover 1200 pixels, expected 30 x 40 = 1200 in counts of 0 or more"),
        ([], "cover 0 pixels"),
        ([2**62, 2**62, 2**62, 2**62, 1200], "expected 30 x 40 = 1200"),  # in 64 bits the sum is right
        ([2**63, 1200], "expected a list of whole numbers"),
        ([2**70, 1200], "expected a list of whole numbers"),
        ([600.5, 599.5], "expected a list of whole numbers"),
        ([[600], [600, 0]], "expected a list of whole numbers"),
        (["1200"], "expected a list of whole numbers"),
        (None, "expected a list of whole numbers"),
        ({"counts": 1200}, "expected a list of whole numbers"),
        (rle_to_coco({"size": [HEIGHT, WIDTH], "counts": RUNS[:-1]})["counts"], "do not fill the picture"),
        (STRING[:-1], "a last count that ends"),
        (STRING + "1", "do not fill the picture"),
        ("", "cover 0 pixels"),
        (STRING + "o", "a last count that ends"),
        (STRING[:2] + "é" + STRING[2:], "expected characters '0' to 'o'"),
        (STRING + "\ud800", "expected characters '0' to 'o'"),
        (STRING + " ", "expected characters '0' to 'o'"),
        ("P" * 12 + "1", "13 characters, expected at most 7"),
    ],
)
def test_counts_that_are_no_mask_of_the_photo_are_refused_before_one_is_decoded(
    tmp_path: Path, counts: Any, part: str
) -> None:
    record = record_of(tmp_path, annotated({"size": [HEIGHT, WIDTH], "counts": counts}))
    with pytest.raises(DataError) as caught:
        record.objects()
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}:one.json: object 7: ") and part in message and "\n" not in message


@pytest.mark.parametrize(
    "annotation",
    [
        annotated({"size": [HEIGHT, WIDTH]}),
        annotated({"counts": STRING}),
        annotated([[1, 2, 3, 4, 5, 6]]),
        annotated(None),
        annotated({"size": [HEIGHT, WIDTH, 3], "counts": STRING}),
        annotated({"size": [float("inf"), WIDTH], "counts": STRING}),
        annotated({"size": [HEIGHT, WIDTH], "counts": STRING}, height=float("inf")),
        annotated({"size": [HEIGHT, WIDTH], "counts": STRING}, width=float("nan")),
        annotated({"size": [-HEIGHT, -WIDTH], "counts": STRING}, height=-HEIGHT, width=-WIDTH),
        annotated({"size": [0, 0], "counts": [0]}, height=0, width=0),
        {"image": {"height": HEIGHT, "width": WIDTH}, "annotations": [3]},
        {"image": 3, "annotations": []},
        {"annotations": []},
        [],
        b'{"image": ' + b"[" * 100_000,
        b"\xff" * 100_000,
        b'{"image"',
    ],
    ids=lambda annotation: repr(annotation)[:60],
)
def test_an_annotation_of_another_format_is_one_short_line_with_its_name(tmp_path: Path, annotation: Any) -> None:
    with pytest.raises(DataError) as caught:
        record_of(tmp_path, annotation).objects()
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}:one.json: ") and "expected" in message
    assert "\n" not in message and len(message) < 1000


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"no photo", lambda data: b""])
def test_a_damaged_photo_of_a_set_is_named_once(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    record_of(tmp_path, annotated({"size": [HEIGHT, WIDTH], "counts": STRING}))
    photo = tmp_path / "one.png"
    photo.write_bytes(damage(photo.read_bytes()))
    (record,) = open_records([tmp_path])
    with pytest.raises(ImageError) as caught:
        record.photo()
    assert str(caught.value).startswith(f"{tmp_path}:one.json: photo is ")
    assert str(caught.value).count("one.json") == 1
