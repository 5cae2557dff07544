"""Photos in, SA-1B tars out: what was annotated and what the data engine adds, a few hundred photos a tar.

Parts are written whole or not at all, and a photo's part follows from its place in the sorted list; so the same command
continues after it was killed.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_edge.errors import DataError, ImageError
from sam_edge.evaluate.dataset import PHOTO_SUFFIXES, Record, open_records
from sam_edge.files import atomic_file
from sam_edge.image import read_photo
from sam_edge.train.labelling import Label, Labeller

__all__ = ["Boxes", "Counts", "Source", "label_photos", "open_sources", "read_boxes"]

PHOTOS_A_PART = 256
MAX_BROKEN_SHARE = 0.01

Boxes = Mapping[str, NDArray[np.float64]]  # by photo name: (n, 4) xyxy in 0..1 of the photo's width and height


@dataclass(frozen=True)
class Source:
    """A photo to label: its file's name, how to read its bytes, and its annotation where there is one."""

    name: str
    read: Callable[[], bytes]
    record: Record | None


@dataclass
class Counts:
    """What a run did; `broken` names what could not be read."""

    photos: int = 0
    annotated: int = 0
    labelled: int = 0
    skipped_parts: int = 0
    broken: list[str] = field(default_factory=list)


def open_sources(paths: Iterable[Path]) -> list[Source]:
    """Photos of folders (with or without a JSON beside them) and of SA-1B tars, by name. Raises DataError."""
    sources: list[Source] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: does not exist; expected a folder of photos or a .tar in SA-1B's format.")
        photos = sorted(f for f in path.iterdir() if f.suffix.lower() in PHOTO_SUFFIXES) if path.is_dir() else []
        try:
            records = {record.name: record for record in open_records([path])}
        except DataError:
            if not photos:
                raise
            records = {}
        sources += [Source(photo.name, photo.read_bytes, records.get(photo.stem)) for photo in photos]
        listed = {photo.stem for photo in photos}
        sources += [Source(f"{r.name}.jpg", r.photo_bytes, r) for r in records.values() if r.name not in listed]
    return sorted(sources, key=lambda source: source.name)


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
                found = boxes.setdefault(Path(str(image["file_name"])).name, [])
                found.append(np.array([x, y, x + width, y + height]) / sides)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a COCO detection file ({type(error).__name__}: {error}); expected a JSON object with "
            "'images' (id, file_name, width, height) and 'annotations' (image_id, bbox as x, y, width, height)."
        ) from None
    return {name: np.stack(found) for name, found in boxes.items()}


def label_photos(
    labeller: Labeller,
    sources: Sequence[Source],
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
    for number, start in enumerate(range(0, len(sources), PHOTOS_A_PART)):
        part = sources[start : start + PHOTOS_A_PART]
        path = out.with_name(f"{out.name.removesuffix('.tar')}-{number:03}.tar")
        if path.exists():
            counts.skipped_parts += 1
        else:
            with atomic_file(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
                for source in part:
                    _label_one(labeller, source, boxes, tar, counts)
                    on_photo()
        if len(counts.broken) > max(1, MAX_BROKEN_SHARE * len(sources)):
            raise DataError(
                f"{len(counts.broken)} of {len(sources)} photos cannot be read, expected at most "
                f"{MAX_BROKEN_SHARE:.0%}; the last: {counts.broken[-1]}. Remove or replace them."
            )
    return counts


def _label_one(
    labeller: Labeller,
    source: Source,
    boxes: Boxes | None,
    tar: tarfile.TarFile,
    counts: Counts,
) -> None:
    try:
        data = source.read()
        photo = read_photo(data)
        known = source.record.objects() if source.record is not None else []
    except (ImageError, DataError, OSError) as error:
        counts.broken.append(f"{source.name}: {error}")
        return
    height, width = photo.shape[:2]
    if boxes is not None:
        given = boxes.get(source.name, np.empty((0, 4)))
        labels = labeller.from_boxes(photo, list(given * [width, height, width, height]))
    else:
        labels = labeller.from_everything(photo, [found.mask() for found in known])
    _add(tar, source.name, data)
    _add(tar, f"{Path(source.name).stem}.json", json.dumps(_annotation(source, width, height, labels)).encode())
    counts.photos += 1
    counts.annotated += len(known)
    counts.labelled += len(labels)


def _annotation(source: Source, width: int, height: int, labels: Sequence[Label]) -> dict[str, Any]:
    """SA-1B's JSON of a photo: what it had, and the labels after it."""
    if source.record is not None:
        image, kept = source.record.annotation["image"], list(source.record.annotation["annotations"])
    else:
        image, kept = {"image_id": 0, "file_name": source.name, "width": width, "height": height}, []
    first = 1 + max((int(entry["id"]) for entry in kept), default=0)
    image_id = int(image.get("image_id", 0))
    return {"image": image, "annotations": [*kept, *(x.annotation(first + i, image_id) for i, x in enumerate(labels))]}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
