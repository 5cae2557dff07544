"""Photos with object masks in SA-1B's format: folders of jpg and json pairs, and tars of them.

Format: https://ai.meta.com/datasets/segment-anything/ (one JSON a photo, masks as COCO's compressed RLE).
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sam_edge.errors import DataError, ImageError
from sam_edge.image import MAX_PIXELS, Size, read_photo
from sam_edge.rle import counts_to_mask, run_lengths

__all__ = [
    "MALFORMED",
    "MAX_BROKEN_SHARE",
    "MAX_JSON_BYTES",
    "MIN_AREA_PX",
    "PHOTO_SUFFIXES",
    "Held",
    "Object",
    "Record",
    "drawn_evenly",
    "open_records",
    "too_many_broken",
]

MIN_AREA_PX = 100  # smaller objects are left out, at the stored size (evaluation protocol, section 1)
MAX_JSON_BYTES = 64 << 20
MAX_PHOTO_BYTES = 256 << 20
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # of a data set's photos, for whatever reads or writes one
MAX_BROKEN_SHARE = 0.01  # of a data set's photos, in whatever reads a large one from end to end
T = TypeVar("T")
# What fields raise that are missing, or of another kind than they should be: Infinity is an overflow, a deep list a
# recursion.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Object:
    """One annotated object; `area` in pixels, `size` (height, width) of the photo it was drawn on, `counts` its run
    lengths, compressed or not."""

    id: int
    area: int
    category: str
    size: Size
    counts: str | list[int]

    def mask(self) -> NDArray[np.bool_]:
        """The object's mask, (H, W) bool. Not by pycocotools, which takes counts on trust and is no faster."""
        return counts_to_mask(self.counts, self.size)


class _Bytes(Protocol):
    """Where a photo's or an annotation's bytes come from."""

    def read(self) -> bytes: ...


@dataclass(frozen=True)
class Held:
    """Bytes that are here already, as those of a streamed tar are."""

    data: bytes

    def read(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class _Span:
    """Bytes of a file, or of a member inside a tar."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read ({error.strerror}). Check the path and its permissions."
            ) from None
        if len(data) != self.size:
            raise DataError(f"{self.path}: ends after {len(data)} of {self.size} bytes. Fetch the file again.")
        return data


@dataclass(frozen=True)
class Record:
    """One photo and its objects; nothing is read before it is asked for. A photo without annotations has no objects.

    `name` is the stem of both files, `source` the folder's name or the tar's without its number ("coco" of
    "coco-001.tar"), `where` a path for messages.
    """

    name: str
    source: str
    where: str
    photo_span: _Bytes
    json_span: _Bytes | None
    photo_suffix: str = ".jpg"

    def photo_bytes(self) -> bytes:
        """The photo's file as stored."""
        return self.photo_span.read()

    def photo(self, data: bytes | None = None) -> NDArray[np.uint8]:
        """The photo, (H, W, 3) uint8 RGB. Raises ImageError, which names it, and DataError.

        data: its `photo_bytes`, where they are here already.
        """
        try:
            return read_photo(self.photo_bytes() if data is None else data)
        except ImageError as error:
            raise ImageError(f"{self.where}: {error}") from None

    @cached_property
    def annotation(self) -> dict[str, Any]:
        """The parsed JSON, {} where there is none. Raises DataError."""
        if self.json_span is None:
            return {}
        try:
            parsed = json.loads(self.json_span.read())
            parsed["annotations"], parsed["image"]["width"]  # both must be there
        except MALFORMED as error:
            raise DataError(
                f"{self.where}: not an annotation in SA-1B's format ({error!r:.200}); expected a JSON object with "
                "'image' and 'annotations'. Remove the pair or write the file again."
            ) from None
        return dict(parsed)

    def objects(self, min_area: int = MIN_AREA_PX) -> list[Object]:
        """Objects of at least `min_area` pixels, `iscrowd` left out, in the file's order. Raises DataError."""
        return [found for found in self._objects if found.area >= min_area]

    @cached_property
    def _objects(self) -> tuple[Object, ...]:
        """All but crowds, checked once and kept: training asks for a photo's objects at every sample of it."""
        if self.json_span is None:
            return ()
        image = self.annotation["image"]
        try:
            photo_size = int(image["height"]), int(image["width"])
            objects = tuple(_object(entry) for entry in self.annotation["annotations"] if not entry.get("iscrowd", 0))
        except MALFORMED as error:
            raise DataError(
                f"{self.where}: an annotation lacks a field of SA-1B's format ({error!r:.200}); "
                "expected id, area and segmentation {size, counts}."
            ) from None
        sizes = {found.size for found in objects}
        if sizes - {photo_size} or min(photo_size) < 1 or photo_size[0] * photo_size[1] > MAX_PIXELS:
            raise DataError(
                f"{self.where}: masks of (height, width) {sorted(sizes)} on a photo of {photo_size}; expected the "
                f"photo's own size, at most {MAX_PIXELS} pixels. Write the annotations at the photo's size."
            )
        for found in objects:
            self._check_counts(found)
        return objects

    def _check_counts(self, found: Object) -> None:
        try:
            run_lengths(found.counts, found.size)
        except DataError as error:
            raise DataError(f"{self.where}: object {found.id}: {error} Remove the object or write it again.") from None


def _object(entry: dict[str, Any]) -> Object:
    """Its counts not checked yet. Raises one of MALFORMED."""
    segmentation = entry["segmentation"]
    height, width = segmentation["size"]
    return Object(
        id=int(entry["id"]),
        area=int(entry["area"]),
        category=str(entry.get("category", "")),
        size=(int(height), int(width)),
        counts=segmentation["counts"],
    )


def open_records(paths: Iterable[str | Path], annotated: bool = True) -> list[Record]:
    """All photos with annotations under folders and tars, sorted by name within each; all photos without `annotated`.

    A folder is searched for pairs and for tars directly inside it. Raises DataError where a path does not exist or
    holds no pair.
    """
    records: list[Record] = []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"{path}: does not exist; expected a folder or a .tar in SA-1B's format.")
        found = _from_tar(path, annotated) if path.is_file() else _from_folder(path, annotated)
        if not found:
            what = "photo with annotations" if annotated else "photo"
            pairs = (
                "NAME.jpg beside NAME.json (SA-1B's format)" if annotated else f"NAME{' or NAME'.join(PHOTO_SUFFIXES)}"
            )
            raise DataError(f"{path}: no {what} in it; expected {pairs}, in a folder or a .tar.")
        records.extend(found)
    return records


def _from_folder(folder: Path, annotated: bool) -> list[Record]:
    with os.scandir(folder) as entries:
        files = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    spans = {name: _Span(folder / name, 0, size) for name, size in files.items()}
    records = _pair(spans, folder, annotated)
    for name in sorted(files):
        if name.endswith(".tar"):
            records.extend(_from_tar(folder / name, annotated))
    return records


def _from_tar(path: Path, annotated: bool) -> list[Record]:
    try:
        with tarfile.open(path, "r:") as tar:  # uncompressed only: members are read by offset, and nothing can inflate
            spans = {m.name: _Span(path, m.offset_data, m.size) for m in tar if m.isfile()}
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{path}: not a readable tar ({error}); expected an uncompressed .tar of jpg and json pairs."
        ) from None
    size = path.stat().st_size
    return _pair({name: span for name, span in spans.items() if span.offset + span.size <= size}, path, annotated)


def _pair(spans: dict[str, _Span], where: Path, annotated: bool) -> list[Record]:
    source = re.sub(r"(-\d+)?(\.tar)?$", "", where.name)
    by_stem: dict[str, dict[str, str]] = {}  # stem -> suffix in lower case -> suffix: cameras write ".JPG"
    for name in spans:
        stem, _, suffix = name.rpartition(".")
        if stem:
            by_stem.setdefault(stem, {}).setdefault(f".{suffix.lower()}", f".{suffix}")
    records = []
    # By the annotation's name: the order decides which photos a run holds out.
    for stem in sorted(by_stem, key=lambda stem: f"{stem}.json"):
        suffixes = by_stem[stem]
        photo_suffix = next((suffixes[s] for s in PHOTO_SUFFIXES if s in suffixes), None)
        pair = spans[stem + suffixes[".json"]] if ".json" in suffixes else None
        if photo_suffix is None or (photo := spans[stem + photo_suffix]).size > MAX_PHOTO_BYTES:
            continue
        if (annotated and pair is None) or (pair is not None and pair.size > MAX_JSON_BYTES):
            continue
        name = f"{stem}.json" if pair is not None else stem
        records.append(Record(Path(stem).name, source, f"{where}:{name}", photo, pair, photo_suffix))
    return records


def too_many_broken(broken: int, photos: int) -> bool:
    """Whether `broken` of so many photos are more than MAX_BROKEN_SHARE."""
    return broken > MAX_BROKEN_SHARE * photos


def drawn_evenly(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items spread evenly over all; all of them for 0."""
    if not 0 < count < len(items):
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).astype(int)]
