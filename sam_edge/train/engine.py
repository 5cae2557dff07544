"""Photos in, SA-1B tars out: what was annotated and what the data engine adds, a few hundred photos a tar.

Parts are written whole or not at all, and a photo's part follows from its place in the sorted list; so the same command
continues after it was killed.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_edge.errors import DataError, ImageError
from sam_edge.evaluate.dataset import MAX_BROKEN_SHARE, Record, too_many_broken
from sam_edge.files import atomic_file
from sam_edge.train.labelling import Label, Labeller

__all__ = ["Boxes", "Counts", "label_photos", "read_boxes"]

PHOTOS_A_PART = 256

# By the photo's name without suffix: (n, 4) xyxy in 0..1 of the photo's width and height.
Boxes = Mapping[str, NDArray[np.float64]]


@dataclass
class Counts:
    """What a run did; `broken` names what could not be read, `unusable_boxes` had no pixel of their photo."""

    photos: int = 0
    annotated: int = 0
    labelled: int = 0
    unusable_boxes: int = 0
    skipped_parts: int = 0
    broken: list[str] = field(default_factory=list)


def read_boxes(path: Path) -> Boxes:
    """Boxes of a COCO detection file: `images` with their size, `annotations` with `bbox` xywh. Raises DataError.

    Crowds are left out: their box is not one object's.
    """
    try:
        coco = json.loads(path.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in coco["images"]}
        boxes: dict[str, list[NDArray[np.float64]]] = {}
        for annotation in coco["annotations"]:
            image = images[annotation["image_id"]]
            x, y, width, height = (float(value) for value in annotation["bbox"])
            sides = np.array([image["width"], image["height"]] * 2, np.float64)
            if not annotation.get("iscrowd", 0):
                found = boxes.setdefault(Path(str(image["file_name"])).stem, [])
                found.append(np.array([x, y, x + width, y + height]) / sides)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a COCO detection file ({type(error).__name__}: {error}); expected a JSON object with "
            "'images' (id, file_name, width, height) and 'annotations' (image_id, bbox as x, y, width, height)."
        ) from None
    return {name: np.stack(found) for name, found in boxes.items()}


def label_photos(
    labeller: Labeller,
    records: Sequence[Record],
    out: Path,
    boxes: Boxes | None = None,
    on_photo: Callable[[], None] = lambda: None,
) -> Counts:
    """Write OUT-000.tar, OUT-001.tar ... (out without its suffix): each photo as it is stored, and its labels.

    boxes: label these and nothing else; without them, what everything mode finds beside the annotated objects. A
    photo that cannot be read is counted. Raises DataError where more than 1 % cannot be.
    """
    counts = Counts()
    out.parent.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(records), PHOTOS_A_PART)):
        part = records[start : start + PHOTOS_A_PART]
        path = out.with_name(f"{out.name.removesuffix('.tar')}-{number:03}.tar")
        if path.exists():
            counts.skipped_parts += 1
        else:
            with atomic_file(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
                for record in part:
                    _label_one(labeller, record, boxes, tar, counts)
                    on_photo()
        broken = len(counts.broken)
        if broken > 1 and too_many_broken(broken, len(records)):  # one in a small folder is no sign
            raise DataError(
                f"{broken} of {len(records)} photos cannot be read, expected at most "
                f"{MAX_BROKEN_SHARE:.0%}; the last: {counts.broken[-1]}. Remove or replace them."
            )
    return counts


def _label_one(
    labeller: Labeller,
    record: Record,
    boxes: Boxes | None,
    tar: tarfile.TarFile,
    counts: Counts,
) -> None:
    record = replace(record)  # a copy: it keeps what it has parsed, and there may be thousands
    try:
        data = record.photo_bytes()
        photo = record.photo(data)
        known = record.objects()
    except (ImageError, DataError) as error:
        counts.broken.append(str(error))
        return
    height, width = photo.shape[:2]
    photo_name = f"{record.name}{record.photo_suffix}"
    if boxes is not None:
        given = boxes.get(record.name, np.empty((0, 4)))
        usable = _within(given * [width, height, width, height], width, height)
        counts.unusable_boxes += len(given) - len(usable)
        labels = labeller.from_boxes(photo, list(usable))
    else:
        labels = labeller.from_everything(photo, [found.mask() for found in known])
    _add(tar, photo_name, data)
    _add(tar, f"{record.name}.json", json.dumps(_annotation(record, photo_name, width, height, labels)).encode())
    counts.photos += 1
    counts.annotated += len(known)
    counts.labelled += len(labels)


def _within(boxes: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """Of boxes (n, 4) xyxy in pixels what lies on the photo; without those of which less than a pixel does."""
    clipped = np.clip(boxes, 0, [width, height, width, height])
    sides = clipped[:, 2:] - clipped[:, :2]
    return clipped[(sides >= 1).all(1)]  # not so for NaN, either


def _annotation(record: Record, photo_name: str, width: int, height: int, labels: Sequence[Label]) -> dict[str, Any]:
    """SA-1B's JSON of a photo: what it had, and the labels after it."""
    unannotated = {"image_id": 0, "file_name": photo_name, "width": width, "height": height}
    image, kept = record.annotation.get("image", unannotated), list(record.annotation.get("annotations", []))
    first = 1 + max((int(entry["id"]) for entry in kept), default=0)
    image_id = int(image.get("image_id", 0))
    return {"image": image, "annotations": [*kept, *(x.annotation(first + i, image_id) for i, x in enumerate(labels))]}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
