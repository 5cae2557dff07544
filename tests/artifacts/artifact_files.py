"""Changes to the files of an artifact folder, as a damaged disk or an attacker makes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam_edge.artifact import open_artifact


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def put(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and make the manifest agree with it."""
    (folder / name).write_bytes(data)
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit(folder, lambda manifest: manifest["files"].update({name: facts}))


def read_all(folder: Path) -> None:
    artifact = open_artifact(folder)
    artifact.read_graph("encoder")
    artifact.read_graph("decoder")
    artifact.read_golden()


def set_at(*path: Any) -> Callable[[dict[str, Any]], None]:
    """set_at("a", "b", 3): data["a"]["b"] = 3."""

    def change(data: Any) -> None:
        for key in path[:-2]:
            data = data[key]
        data[path[-2]] = path[-1]

    return change
