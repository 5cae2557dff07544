"""A teacher's image embeddings on disk: computed once, one byte a value, in checksummed shards.

CACHE/<teacher>-<hash>-<size>px/ holds cache.json (whose embeddings these are) and shards: NNNNN.safetensors with
`<photo>` (C, h, w) int8 and `<photo>.scale` (C,) float16 for each photo, named by the SHA-256 of its file's bytes, and
NNNNN.json with the shard's own SHA-256, its photos, and those that could not be read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sam_edge.contract import Float32
from sam_edge.errors import DataError, SamEdgeError, first_line
from sam_edge.evaluate.dataset import Record
from sam_edge.evaluate.provenance import file_sha256
from sam_edge.files import write_bytes_atomically
from sam_edge.image import preprocess
from sam_edge.model.sam import Sam

__all__ = ["CacheKey", "EmbeddingCache", "dequantized", "quantized"]

PHOTOS_PER_SHARD = 64  # 67 MB of SAM's embeddings
LARGEST = 127
SMALLEST_SCALE = 6.2e-5  # of float16 in full precision


@dataclass(frozen=True)
class CacheKey:
    """Whose embeddings: `teacher_sha256` of the checkpoint's file, input side in pixels, shape (C, S/16, S/16)."""

    teacher: str
    teacher_sha256: str
    image_size: int
    shape: tuple[int, ...]

    @property
    def folder_name(self) -> str:
        return f"{self.teacher}-{self.teacher_sha256[:12]}-{self.image_size}px"


def quantized(embedding: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """(C, h, w) float -> int8 of the same shape and a scale a channel (C,); the error is at most half a scale."""
    largest = np.abs(embedding).max(axis=(1, 2))
    scale = np.maximum(largest / LARGEST, SMALLEST_SCALE).astype(np.float16)
    steps = np.rint(embedding / scale.astype(np.float32)[:, None, None])
    return np.clip(steps, -LARGEST, LARGEST).astype(np.int8), scale


def dequantized(values: NDArray[np.int8], scale: NDArray[np.float16]) -> Float32:
    """The inverse: (C, h, w) float32."""
    return values.astype(np.float32) * scale.astype(np.float32)[:, None, None]


class EmbeddingCache:
    """One teacher's embeddings in a folder. `refresh` must be called before photos are asked for."""

    def __init__(self, parent: Path, key: CacheKey) -> None:
        self.folder, self.key = parent / key.folder_name, key
        self.shard_of: dict[str, Path] = {}
        self.broken: dict[str, str] = {}  # photo -> why it has no embedding

    def open(self, say: Callable[[str], None]) -> None:
        """Make the folder or check that it is this teacher's, and take out shards that are damaged. By one process.

        `say` gets a line for each shard that must be computed again. Raises DataError for another teacher's folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = json.loads(json.dumps(asdict(self.key)))
        path = self.folder / "cache.json"
        found = _json(path) if path.exists() else wanted
        if found != wanted:
            differing = [f"{k}: {found.get(k)!r}, expected {wanted[k]!r}" for k in wanted if found.get(k) != wanted[k]]
            raise DataError(f"{path} is of another teacher ({'; '.join(differing)}). Use another --cache.")
        if not path.exists():
            write_bytes_atomically(path, json.dumps(wanted, indent=1).encode())
        for shard in sorted(self.folder.glob("*.safetensors")):
            if why := _damage(shard):
                say(f"{shard}: {why}; its photos are computed again")
                shard.with_suffix(".json").unlink(missing_ok=True)  # first: without it the shard does not count
                shard.unlink()
        self.refresh()

    def refresh(self) -> None:
        """Read which photos are there."""
        self.shard_of, self.broken = {}, {}
        for path in sorted(self.folder.glob("[0-9]*.json")):
            index = _json(path)
            self.broken |= index["broken"]
            self.shard_of |= dict.fromkeys(index["photos"], path.with_suffix(".safetensors"))

    def missing(self, photos: Sequence[str]) -> list[tuple[int, list[int]]]:
        """Shards to compute: (number, positions in `photos`), for those neither here nor known to be broken."""
        wanted = {photo: i for i, photo in enumerate(photos) if photo not in self.shard_of and photo not in self.broken}
        positions = sorted(wanted.values())
        taken = [int(path.stem) for path in self.folder.glob("[0-9]*.json")]
        first = max(taken, default=-1) + 1
        starts = range(0, len(positions), PHOTOS_PER_SHARD)
        return [(first + i, positions[start : start + PHOTOS_PER_SHARD]) for i, start in enumerate(starts)]

    def compute(self, number: int, records: Iterable[Record], teacher: Sam, on_photo: Callable[[], None]) -> None:
        """Encode the photos of one shard and write it. Raises OutputError; what was there stays."""
        tensors: dict[str, Any] = {}
        broken: dict[str, str] = {}
        for record in records:
            data = record.photo_bytes()
            photo = hashlib.sha256(data).hexdigest()
            try:
                image, _ = preprocess(record.photo(data), teacher.spec)
            except SamEdgeError as error:
                broken[photo] = first_line(error)
            else:
                with torch.inference_mode():
                    embedding = teacher.encode(torch.from_numpy(image).to(teacher.device))[0][0]
                tensors[photo], tensors[f"{photo}.scale"] = quantized(embedding.float().cpu().numpy())
            on_photo()
        content = save(tensors)
        index = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "size_bytes": len(content),
            "photos": [name for name in tensors if not name.endswith(".scale")],
            "broken": broken,
        }
        shard = self.folder / f"{number:05d}.safetensors"
        write_bytes_atomically(shard, content)
        write_bytes_atomically(shard.with_suffix(".json"), json.dumps(index).encode())

    def embedding(self, photo: str, where: str) -> Float32:
        """image_embeddings (C, S/16, S/16) float32 of a photo by the SHA-256 of its bytes.

        Raises DataError for a photo that could not be read, and for one that has none yet, with `where`.
        """
        if photo in self.broken:
            raise DataError(self.broken[photo])  # it was named when it was read
        shard = self.shard_of.get(photo)
        if shard is None:
            raise DataError(
                f"{where}: it has no embedding in {self.folder}. "
                "Run the same command again to compute those of new or changed photos."
            )
        try:
            with safe_open(shard, framework="np") as file:
                values, scale = file.get_tensor(photo), file.get_tensor(f"{photo}.scale")
        except (SafetensorError, OSError) as error:
            raise DataError(f"{shard}: cannot be read ({first_line(error)}). Run the same command again.") from None
        return dequantized(values, scale)


def _damage(shard: Path) -> str:
    """What is wrong with a shard, "" for nothing."""
    path = shard.with_suffix(".json")
    if not path.exists():
        return "it was not finished"
    try:
        index = _json(path)
        expected, photos, broken = str(index["sha256"]), index["photos"], index["broken"]
    except (DataError, KeyError, TypeError) as error:
        return f"its index cannot be read ({first_line(error)})"
    if not isinstance(photos, list) or not isinstance(broken, dict):
        return "its index has another format"
    found = file_sha256(shard)
    return "" if found == expected else f"its SHA-256 is {found[:12]}..., expected {expected[:12]}..."


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(
            f"{path}: not JSON ({first_line(error)}). Delete it; what it describes is computed again."
        ) from None
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: not an index, expected a JSON object. Delete it; what it describes is computed again."
        )
    return content
