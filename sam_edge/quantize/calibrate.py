"""Photos to calibrate activations on: read safely, counted, and never the ones a model is judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sam_edge.contract import Float32, ModelSpec
from sam_edge.errors import DataError, ImageError
from sam_edge.evaluate.dataset import PHOTO_SUFFIXES, Record
from sam_edge.image import Photo, preprocess, read_photo

__all__ = ["Calibration", "PhotoFile", "check_apart", "photo_files", "read_calibration"]

SEED = 0


@dataclass(frozen=True)
class PhotoFile:
    """A photo by name; `read` gives its bytes."""

    name: str
    path: Path
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class Calibration:
    """`images` preprocessed (1, 3, S, S); `photos` the same before; `names` of both; `skipped`: name -> why."""

    images: tuple[Float32, ...]
    photos: tuple[Photo, ...]
    names: tuple[str, ...]
    skipped: dict[str, str]


def photo_files(folder: str | Path) -> list[PhotoFile]:
    """All photos of a folder (not below it), and of the SA-1B tars in it, sorted by name. Raises DataError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder, expected one with photos to calibrate on. Check the path.")
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file():
            found.append(PhotoFile(path.name, path))
        elif path.suffix.lower() == ".tar":
            found += _in_tar(path)
    if not found:
        raise DataError(f"{folder} has no photo ({', '.join(PHOTO_SUFFIXES)}) and no tar of photos. Check the path.")
    return found


def _in_tar(path: Path) -> list[PhotoFile]:
    import tarfile

    try:
        with tarfile.open(path) as tar:
            members = [m for m in tar if m.isfile() and Path(m.name).suffix.lower() in PHOTO_SUFFIXES]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a tar ({error}). Get it again.") from error
    return [PhotoFile(f"{path.name}:{m.name}", path, m.offset_data, m.size) for m in members]


def read_calibration(
    folder: str | Path, spec: ModelSpec, count: int = 32, judged_by: Iterable[Record] = ()
) -> Calibration:
    """`count` photos drawn from `folder` with a fixed seed, or all of a smaller one.

    A photo that cannot be read is skipped and named in the result. Raises DataError where none is left, and for a photo
    that is also among `judged_by`: figures on it would be worth nothing.
    """
    files = photo_files(folder)
    _refuse_overlap(((file.name, file.read()) for file in files), judged_by, str(folder))
    order = np.random.default_rng(SEED).permutation(len(files))
    photos: list[Photo] = []
    names, skipped = [], {}
    for index in order:
        if len(photos) == count:
            break
        try:
            photos.append(read_photo(files[index].read()))
            names.append(files[index].name)
        except ImageError as error:
            skipped[files[index].name] = str(error)
    if not photos:
        first, why = next(iter(skipped.items()))
        raise DataError(f"none of the {len(files)} photos in {folder} can be read ({first}: {why}). Give others.")
    return Calibration(_preprocessed(photos, spec), tuple(photos), tuple(names), skipped)


def check_apart(records: Iterable[Record], judged_by: Iterable[Record], folder: str) -> None:
    """Raises DataError for a photo of `records` that is also among `judged_by`, by its bytes."""
    _refuse_overlap(((record.name, record.photo_bytes()) for record in records), judged_by, folder)


def _refuse_overlap(photos: Iterable[tuple[str, bytes]], judged_by: Iterable[Record], folder: str) -> None:
    judged = {hashlib.sha256(record.photo_bytes()).hexdigest(): record.where for record in judged_by}
    for name, data in photos if judged else ():
        if where := judged.get(hashlib.sha256(data).hexdigest()):
            raise DataError(
                f"{name} in {folder} is also among the photos that judge the result ({where}). Use other photos."
            )


def _preprocessed(photos: Sequence[Photo], spec: ModelSpec) -> tuple[Float32, ...]:
    return tuple(preprocess(photo, spec)[0] for photo in photos)
