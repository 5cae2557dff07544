"""A small real data set in SA-1B's format: the bundled photos with their objects, outlined by hand."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

PHOTOS = Path(__file__).parents[1] / "sam_edge" / "assets" / "photos"


def _annotations(photo: str) -> dict[str, dict[str, object]]:
    annotations = json.loads((PHOTOS / f"{photo}.json").read_text())["annotations"]
    return {annotation["category"]: annotation["segmentation"] for annotation in annotations}


# Photo -> object -> its outline as COCO RLE.
OUTLINES = {path.stem: _annotations(path.stem) for path in sorted(PHOTOS.glob("*.json"))}


def outline_mask(photo: str, name: str) -> NDArray[np.bool_]:
    """The object's mask at the photo's size, (H, W) bool."""
    return np.asarray(coco_mask.decode(OUTLINES[photo][name]), bool)


def write_set(folder: Path) -> Path:
    """Copy NAME.jpg and NAME.json of every bundled photo; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*PHOTOS.glob("*.jpg"), *PHOTOS.glob("*.json")]:
        shutil.copy(path, folder)
    return folder


def write_tar(path: Path, folder: Path) -> Path:
    """The pairs of `folder` as an SA-1B tar."""
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=file.name)
    return path
