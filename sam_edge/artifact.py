"""Artifact folders: a model's files, what they are, and the proof that they are whole.

    manifest.json                what the model is, see manifest.py
    encoder.onnx, decoder.onnx   the two graphs of the contract, in the target's format
    golden.npz                   photos and the reference's results, see golden_vectors.py
    certificate.json             what the export measured of its masks

`open_artifact` checks the manifest; every file is checked as it is read (a regular file inside the folder, of the
manifest's size and hash; the graphs' structure and tensors by `structures.py`), and the checked bytes themselves are
what a runtime gets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sam_edge import golden_vectors, manifest_json
from sam_edge.errors import ArtifactError, ExportError
from sam_edge.files import atomic_folder, write_bytes_atomically
from sam_edge.golden_vectors import GoldenPhoto
from sam_edge.manifest import FileEntry, JsonDict, Manifest
from sam_edge.structures import describe

__all__ = [
    "CERTIFICATE_NAME",
    "GOLDEN_NAME",
    "MANIFEST_NAME",
    "Artifact",
    "open_artifact",
    "record_quality",
    "write_artifact",
]

MANIFEST_NAME = "manifest.json"
GOLDEN_NAME = "golden.npz"
CERTIFICATE_NAME = "certificate.json"
SIDE_FILES = (GOLDEN_NAME, CERTIFICATE_NAME)  # the rest of a folder's files are the model


@dataclass(frozen=True)
class Artifact:
    """A folder whose manifest has been checked."""

    directory: Path
    manifest: Manifest

    @property
    def size_bytes(self) -> int:
        """Of all files the manifest lists."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    def read_graphs(self) -> dict[str, bytes]:
        """File name -> bytes of every file of the model, checked. Raises ArtifactError."""
        files = {name: self.read_file(name) for name in self.manifest.files if name not in SIDE_FILES}
        if describe(self.manifest.target, files) != self.manifest.graphs:
            raise ArtifactError(
                f"{self.directory} has graphs with other tensors or operators than its manifest says. {_AGAIN}"
            )
        return files

    def read_graph(self, name: str) -> bytes:
        """The bytes of the file of "encoder" or "decoder", checked with all the others. Raises ArtifactError."""
        return self.read_graphs()[self.manifest.graphs[name].file]

    def read_golden(self) -> tuple[GoldenPhoto, ...]:
        """The golden photos, checked. Raises ArtifactError."""
        return golden_vectors.unpack(self.read_file(GOLDEN_NAME), self.manifest.spec)

    def read_file(self, name: str) -> bytes:
        """The bytes of a file of the manifest, of the manifest's size and hash. Raises ArtifactError."""
        path = self.directory / name
        if name not in self.manifest.files:
            raise ArtifactError(f"{path} is not among the manifest's files. {_AGAIN}")
        entry = self.manifest.files[name]
        for parent in Path(name).parents:
            if (self.directory / parent).is_symlink() and parent != Path():
                raise ArtifactError(f"{self.directory / parent} is a link, expected a folder. {_AGAIN}")
        data = _read_regular_file(path, entry.bytes)
        got = hashlib.sha256(data).hexdigest()
        if len(data) != entry.bytes or got != entry.sha256:
            raise ArtifactError(
                f"{path} is not the file of its manifest: got {len(data)} bytes with SHA-256 {got[:12]}..., expected "
                f"{entry.bytes} with {entry.sha256[:12]}.... {_AGAIN}"
            )
        return data


_AGAIN = "Export the model again, or download its folder again."


def open_artifact(directory: str | Path) -> Artifact:
    """Read and check a folder's manifest. Raises ArtifactError."""
    directory = Path(directory)
    if not directory.is_dir():
        raise ArtifactError(f"{directory} is no folder, expected one with a {MANIFEST_NAME}. Check the path.")
    manifest = manifest_json.from_json(_read_regular_file(directory / MANIFEST_NAME, manifest_json.MAX_BYTES))
    return Artifact(directory, manifest)


def write_artifact(
    directory: str | Path, manifest: Manifest, files: dict[str, bytes], check: Callable[[Artifact], None] | None = None
) -> Artifact:
    """Write a folder that is complete or not there; an older artifact in its place is replaced.

    Hashes, sizes, tensors and operator counts of `files` are added to the manifest. `check` gets the folder before it
    has its name, and may raise: then nothing is written. Raises ExportError for graphs that this package would not
    load, OutputError where the folder cannot be written.
    """
    try:
        manifest = replace(
            manifest,
            graphs=describe(manifest.target, {name: data for name, data in files.items() if name not in SIDE_FILES}),
            files={name: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()},
        )
        text = manifest_json.to_json(manifest)
        manifest_json.from_json(text)
    except ArtifactError as error:
        raise ExportError(f"{manifest.name} cannot be written as an artifact: {error}") from error
    with atomic_folder(directory, marker=MANIFEST_NAME) as draft:
        for name, data in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(data)
        (draft / MANIFEST_NAME).write_text(text, encoding="utf-8")
        if check is not None:
            check(Artifact(draft, manifest))
    return Artifact(Path(directory), manifest)


def record_quality(directory: str | Path, quality: JsonDict) -> Manifest:
    """Put measured figures, named with their units, into an artifact's manifest. Raises ArtifactError, OutputError."""
    artifact = open_artifact(directory)
    manifest = replace(artifact.manifest, quality=quality)
    text = manifest_json.to_json(manifest)
    manifest_json.from_json(text)
    write_bytes_atomically(artifact.directory / MANIFEST_NAME, text.encode())
    return manifest


def _read_regular_file(path: Path, max_bytes: int) -> bytes:
    """All bytes, one more than `max_bytes` at most; links are refused, as they may lead out of the folder."""
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ArtifactError(f"{path} is a link, a folder or a device, expected a regular file. {_AGAIN}")
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror or error}). {_AGAIN}") from error
