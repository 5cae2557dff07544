"""A small real data set in SA-1B's format, made from the bundled photos: outlines drawn by hand as polygons."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

PHOTOS = Path(__file__).parents[1] / "sam_edge" / "assets" / "photos"

# Photo: {object: polygon in pixels}. Coarse, as COCO's are.
OUTLINES: dict[str, dict[str, list[tuple[int, int]]]] = {
    "chelsea": {
        "cat": [
            (0, 0),
            (386, 0),
            (370, 60),
            (362, 105),
            (375, 150),
            (360, 200),
            (330, 240),
            (310, 299),
            (0, 299),
        ],
        "left eye": [
            (136, 112),
            (150, 92),
            (175, 86),
            (200, 98),
            (208, 125),
            (196, 144),
            (170, 146),
            (146, 134),
        ],
        "nose": [
            (234, 226),
            (262, 222),
            (284, 232),
            (272, 256),
            (254, 264),
            (238, 246),
        ],
    },
    "coffee": {
        "saucer": [
            (83, 218),
            (100, 149),
            (146, 98),
            (227, 69),
            (318, 71),
            (410, 109),
            (462, 172),
            (479, 247),
            (462, 310),
            (399, 362),
            (307, 385),
            (215, 373),
            (135, 327),
            (95, 276),
        ],
        "cup": [
            (173, 115),
            (181, 69),
            (221, 32),
            (295, 17),
            (370, 34),
            (416, 80),
            (419, 126),
            (410, 184),
            (376, 247),
            (307, 287),
            (227, 270),
            (192, 207),
        ],
        "spoon": [
            (325, 281),
            (339, 255),
            (364, 239),
            (393, 247),
            (403, 276),
            (397, 308),
            (367, 325),
            (336, 312),
        ],
    },
    "astronaut": {
        "person": [
            (155, 69),
            (178, 29),
            (224, 14),
            (269, 29),
            (298, 69),
            (292, 115),
            (275, 149),
            (304, 230),
            (344, 270),
            (361, 344),
            (292, 379),
            (275, 448),
            (287, 511),
            (19, 511),
            (26, 402),
            (63, 333),
            (120, 270),
            (114, 184),
            (166, 138),
        ],
        "helmet": [
            (292, 396),
            (327, 362),
            (390, 344),
            (453, 362),
            (499, 408),
            (511, 471),
            (505, 511),
            (292, 511),
            (281, 459),
        ],
        "shuttle": [
            (401, 11),
            (413, 0),
            (430, 0),
            (451, 69),
            (453, 218),
            (470, 281),
            (373, 281),
            (356, 218),
            (382, 172),
            (384, 69),
        ],
    },
}


def outline_mask(photo: str, name: str) -> NDArray[np.bool_]:
    """The object's mask at the photo's size, (H, W) bool."""
    with Image.open(PHOTOS / f"{photo}.jpg") as image:
        canvas = np.zeros((image.height, image.width), np.uint8)
    cv2.fillPoly(canvas, [np.array(OUTLINES[photo][name], np.int32)], 1)
    return canvas.astype(bool)


def write_set(folder: Path) -> Path:
    """Write NAME.jpg beside NAME.json for every bundled photo; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for image_id, (photo, outlines) in enumerate(OUTLINES.items(), start=1):
        (folder / f"{photo}.jpg").write_bytes((PHOTOS / f"{photo}.jpg").read_bytes())
        annotations = []
        for number, name in enumerate(outlines):
            mask = outline_mask(photo, name)
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": image_id * 10 + number,
                    "image_id": image_id,
                    "area": int(mask.sum()),
                    "category": name,
                    "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
                }
            )
        height, width = mask.shape
        record = {"image": {"image_id": image_id, "width": width, "height": height}, "annotations": annotations}
        (folder / f"{photo}.json").write_text(json.dumps(record))
    return folder


def write_tar(path: Path, folder: Path) -> Path:
    """The pairs of `folder` as an SA-1B tar."""
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=file.name)
    return path
