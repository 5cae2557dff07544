"""Where a record comes from: hashes of the files and the commit of the code (evaluation protocol, section 4)."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sam_edge.artifact import MANIFEST_NAME
from sam_edge.runtimes import ASSETS

__all__ = ["data_sha256", "file_facts", "file_sha256", "model_files", "source_commit"]

DATA_SUFFIXES = {".json", ".jpg", ".jpeg", ".png", ".webp", ".tar"}


def file_facts(path: Path) -> dict[str, Any]:
    """{"name", "bytes", "sha256"} of a file."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; read in parts."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_files(model: str) -> list[dict[str, Any]]:
    """`file_facts` of all files behind a model: a name, an artifact's folder or a checkpoint."""
    path = Path(model)
    if path.is_file():
        return [file_facts(path)]
    folder = ASSETS / model if (ASSETS / model / MANIFEST_NAME).is_file() else path
    return [file_facts(file) for file in sorted(folder.iterdir()) if file.is_file()]


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
