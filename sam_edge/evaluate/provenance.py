"""Where a record comes from: hashes of the files and the commit of the code (evaluation protocol, section 4)."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sam_edge.artifact import MANIFEST_NAME, SIDE_FILES, open_artifact

__all__ = [
    "data_sha256",
    "device_files",
    "file_facts",
    "file_sha256",
    "files_sha256",
    "model_files",
    "source_commit",
]

DATA_SUFFIXES = {".json", ".jpg", ".jpeg", ".png", ".webp", ".tar"}


def file_facts(path: Path) -> dict[str, Any]:
    """{"name", "bytes", "sha256"} of a file."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; read in parts."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_files(path: Path) -> list[dict[str, Any]]:
    """`file_facts` of what was loaded (`runtimes.loaded_path`): a checkpoint, or an artifact's manifest and every file
    that it lists. Raises ArtifactError.
    """
    if path.is_file():
        return [file_facts(path)]
    listed = sorted(open_artifact(path).manifest.files.items())  # also those in folders: a Core ML package is one
    facts = [{"name": name, "bytes": entry.bytes, "sha256": entry.sha256} for name, entry in listed]
    return [*facts, file_facts(path / MANIFEST_NAME)]


def device_files(files: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of `model_files` that a device must hold: without golden photos, certificate and manifest."""
    return [file for file in files if file["name"] not in (*SIDE_FILES, MANIFEST_NAME)]


def files_sha256(files: Sequence[dict[str, Any]]) -> str:
    """One SHA-256 of a model's files: a checkpoint's own, or one over the names and hashes of several."""
    if len(files) == 1:
        return str(files[0]["sha256"])
    total = "".join(f"{file['name']} {file['sha256']}\n" for file in files)
    return hashlib.sha256(total.encode()).hexdigest()


def data_sha256(paths: Iterable[Path]) -> str:
    """One SHA-256 over names and contents of all photos, annotations and tars of a data set, in order of name."""
    total = hashlib.sha256()
    for path in paths:
        files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix.lower() in DATA_SUFFIXES)
        for file in files:
            total.update(f"{file.name} {file_sha256(file)}\n".encode())
    return total.hexdigest()


def source_commit() -> str | None:
    """The commit this code was run from, with "+" where files differ from it; None for an installed package."""
    folder = Path(__file__).parent
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of git, or None where there is no git, no repository or an error."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
