"""A folder of photos that is being labelled: what may be read of it, and the one thing that may be written.

Photos are served by name and only from the folder itself: no sub-folder, no link, nothing hidden. Beside `photo.jpg`
only `photo.json` is ever written, in SA-1B's format, rebuilt from checked fields.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sam_edge.errors import DataError, OutputError
from sam_edge.evaluate.dataset import MALFORMED, MAX_JSON_BYTES, PHOTO_SUFFIXES
from sam_edge.files import write_bytes_atomically
from sam_edge.image import MAX_BYTES, MAX_PIXELS
from sam_edge.rle import run_lengths

__all__ = ["MAX_ANNOTATION_BYTES", "PHOTO_TYPES", "PhotoFolder"]

# Suffix -> media type. Browsers decode more, but what no data set reads would be labelled for nothing.
PHOTO_TYPES = {suffix: f"image/{suffix[1:]}" for suffix in PHOTO_SUFFIXES} | {".jpg": "image/jpeg"}
MAX_ANNOTATION_BYTES = MAX_JSON_BYTES
MAX_OBJECTS = 10_000
MAX_NAME = 200
EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class PhotoFolder:
    """`directory` must exist. Raises DataError where two photos would share one JSON file."""

    directory: Path

    def __post_init__(self) -> None:
        if not self.directory.is_dir():
            raise DataError(f"{self.directory} is not a folder, expected one with photos. Check the path.")
        stems: dict[str, str] = {}
        for name in self.names():
            other = stems.setdefault(Path(name).stem.casefold(), name)
            if other != name:
                raise DataError(
                    f"{self.directory}: {other} and {name} would share one JSON file, expected different names. "
                    "Rename one of them."
                )

    def names(self) -> list[str]:
        """The photos, in the order in which they are labelled."""
        with os.scandir(self.directory) as entries:
            return sorted(entry.name for entry in entries if _is_photo_name(entry.name) and _is_plain_file(entry.path))

    def listing(self) -> list[dict[str, Any]]:
        """[{"name", "labelled"}] of all photos."""
        return [{"name": name, "labelled": self._json_path(name).is_file()} for name in self.names()]

    def read_photo(self, name: str) -> tuple[bytes, str]:
        """A photo's file and its media type. Raises DataError for what is not a photo of this folder."""
        return _read_plain_file(self._photo_path(name), MAX_BYTES), PHOTO_TYPES[Path(name).suffix.lower()]

    def read_annotation(self, name: str) -> bytes | None:
        """The JSON beside a photo, None where there is none. Raises DataError for another kind of JSON."""
        self._photo_path(name)
        path = self._json_path(name)
        if not os.path.lexists(path):
            return None
        data = _read_plain_file(path, MAX_ANNOTATION_BYTES)
        if not _is_annotation(data):
            raise DataError(
                f"{path.name} beside {name} is no annotation in SA-1B's format, so it is neither read nor replaced. "
                "Move it away."
            )
        return data

    def write_annotation(self, name: str, document: Any) -> int:
        """Check a document and write it beside its photo, whole or not at all; the number of objects.

        Raises DataError for a document that does not fit the photo, OutputError where it cannot be written.
        """
        photo, _ = self.read_photo(name)
        self.read_annotation(name)  # refuses to replace what is no annotation
        checked = _checked(document, name, _photo_size(name, photo))
        path = self._json_path(name)
        if path.is_symlink():
            raise OutputError(f"{path.name} is a link and is not written through. Replace it by a file.")
        write_bytes_atomically(path, (json.dumps(checked, allow_nan=False) + "\n").encode())
        return len(checked["annotations"])

    def _photo_path(self, name: str) -> Path:
        path = self.directory / name
        if not _is_photo_name(name) or not _is_plain_file(path):
            raise DataError(f"{name[:100]!r} is not a photo of this folder. Choose one of the list.")
        return path

    def _json_path(self, name: str) -> Path:
        return self.directory / f"{Path(name).stem}.json"


def _is_photo_name(name: str) -> bool:
    plain = name == Path(name).name and "\\" not in name and "\0" not in name and not name.startswith(".")
    return plain and Path(name).suffix.lower() in PHOTO_TYPES


def _is_plain_file(path: str | Path) -> bool:
    """A regular file that is not a link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _read_plain_file(path: Path, limit: int) -> bytes:
    """At most `limit` bytes; a link put in the file's place meanwhile is not followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DataError(f"{path.name} is not a regular file. Replace it by one.")
            data = file.read(limit + 1)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror}). Check its permissions.") from error
    if len(data) > limit:
        raise DataError(f"{path.name} has more than {limit:,} bytes, the limit. Shrink it first.")
    return data


def _photo_size(name: str, data: bytes) -> tuple[int, int]:
    """(height, width) upright, from the header alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                turned = image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise DataError(f"{name} cannot be read as a photo ({type(error).__name__}). Copy it again.") from error
    if height * width > MAX_PIXELS:
        raise DataError(f"{name} has {height * width:,} pixels, expected at most {MAX_PIXELS:,}. Shrink it first.")
    return (width, height) if turned else (height, width)


def _is_annotation(data: bytes) -> bool:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and "image" in document and isinstance(document.get("annotations"), list)


def _checked(document: Any, name: str, size: tuple[int, int]) -> dict[str, Any]:
    """The document's known fields, with the photo's own name and size."""
    if not isinstance(document, dict) or not isinstance(document.get("annotations"), list):
        raise DataError("the document is no JSON object with 'annotations', expected SA-1B's format. Reload the page.")
    annotations = document["annotations"]
    if len(annotations) > MAX_OBJECTS:
        raise DataError(f"the document has {len(annotations)} objects, expected at most {MAX_OBJECTS}. Remove some.")
    height, width = size
    return {
        "image": {"image_id": zlib.crc32(name.encode()), "width": width, "height": height, "file_name": name},
        "annotations": [_annotation(entry, number, size) for number, entry in enumerate(annotations, 1)],
    }


def _annotation(entry: Any, number: int, size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    try:
        segmentation = entry["segmentation"]
        counts = segmentation["counts"]
        if list(segmentation["size"]) != [height, width] or not isinstance(counts, str):
            raise DataError(
                f"object {number} has a mask of {segmentation['size']!r:.60} (height, width), expected "
                f"{[height, width]} in compressed run lengths. Reload the photo."
            )
        checked = {
            "id": number,
            "area": _area(counts, number, size),
            "bbox": _numbers(entry["bbox"], 4),
            "segmentation": {"size": [height, width], "counts": counts},
            "predicted_iou": _number(entry.get("predicted_iou", 0.0)),
            "stability_score": _number(entry.get("stability_score", 0.0)),
            "point_coords": [_numbers(point, 2) for point in list(entry.get("point_coords", ()))[:MAX_OBJECTS]],
            "crop_box": [0, 0, width, height],
        }
        if category := entry.get("category", ""):
            checked["category"] = str(category)[:MAX_NAME]
    except MALFORMED as error:
        raise DataError(f"object {number} lacks a field of SA-1B's format ({error!r:.80}). Reload the page.") from error
    return checked


def _area(counts: str, number: int, size: tuple[int, int]) -> int:
    """Mask pixels of run lengths that anybody may have sent."""
    try:
        return int(run_lengths(counts, size)[1::2].sum())
    except DataError as error:
        raise DataError(f"object {number}: {error} Draw it again.") from None


def _numbers(values: Any, count: int) -> list[float]:
    numbers = [_number(value) for value in values]
    if len(numbers) != count:
        raise ValueError(f"{len(numbers)} numbers, expected {count}")
    return numbers


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40} is not a finite number")
    return value
