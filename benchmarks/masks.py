"""Quality in a benchmark row: the masks of one configuration, and how they compare with the reference's and the truth.

Where photos have no ground truth, the prompts are a box and a click at fixed places, and only the reference judges.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from sam_edge import draw
from sam_edge.contract import Runtime
from sam_edge.errors import DataError
from sam_edge.evaluate.dataset import PHOTO_SUFFIXES, drawn_evenly, open_records
from sam_edge.evaluate.metrics import mean_interval, span
from sam_edge.evaluate.parity import PARITY_KINDS, compare_evaluations, measure, rle_iou
from sam_edge.evaluate.protocol import Evaluation, Score
from sam_edge.image import read_photo
from sam_edge.predictor import SamPredictor
from sam_edge.runtimes import ASSETS

__all__ = ["BUNDLED_PHOTOS", "compare_masks", "draw_masks", "worst_masks"]

BUNDLED_PHOTOS = ASSETS / "photos"
PLACES = ((0.5, 0.5), (0.3, 0.35), (0.7, 0.65))  # shares of width and height, for photos without ground truth
BOX_SHARE = 0.4
WORST = 2  # pictures in a record
TILE_PX = 160
PAPER = (245, 245, 245)


def draw_masks(engine: Runtime, data: Sequence[Path], photos: int = 0) -> dict[str, Any]:
    """Every mask as plain data, in the order of photos, objects and prompt kinds; `truth` says whether `iou` is there.

    photos: at most so many, drawn evenly (0: all). Raises DataError, ImageError.
    """
    if not _has_truth(data):
        paths = drawn_evenly(_photos(data), photos)
        scores = [score for number, path in enumerate(paths) for score in _at_fixed_places(engine, path, number)]
        return {"truth": False, "photos": [str(path) for path in paths], "scores": scores}
    records = drawn_evenly(open_records(data), photos)
    evaluation = measure(engine, records)
    return {
        "truth": True,
        "photos": [record.where for record in records],
        "scores": [_as_data(score) for score in evaluation.scores if score.kind in PARITY_KINDS],
    }


def compare_masks(reference: dict[str, Any] | None, tested: dict[str, Any]) -> dict[str, Any]:
    """Prompt kind -> figures: mask IoU with the reference (mean, 5th percentile, smallest), and mIoU with the truth.

    reference: None where there is none; what cannot be said is absent. Both are results of `draw_masks`.
    """
    ours = _evaluation(tested)
    parities = {} if reference is None else compare_evaluations(_evaluation(reference), ours)
    kinds: dict[str, Any] = {}
    for kind in PARITY_KINDS:
        scores = ours.of(kind)
        if not scores:
            continue
        kinds[kind] = {"objects": len(scores)}
        if tested["truth"]:
            ious = [score.iou for score in scores]
            low, high = mean_interval(ious, [score.photo for score in scores])
            percents = {"miou_percent": float(np.mean(ious)), "miou_low_percent": low, "miou_high_percent": high}
            kinds[kind] |= {name: round(100 * value, 3) for name, value in percents.items()}
        if kind in parities:
            figures = parities[kind].to_dict()
            names = ("mask_iou_mean", "mask_iou_p5", "mask_iou_min", "share_below_90")
            kinds[kind] |= {name: figures[name] for name in names}
            if tested["truth"]:
                kinds[kind] |= {"retention": figures["retention"]}
    return kinds


def worst_masks(reference: dict[str, Any], tested: dict[str, Any]) -> list[dict[str, Any]]:
    """The masks least like the reference's, one a photo and object, each with a small picture of both side by side."""
    ious = [
        (rle_iou(expected["rle"], got["rle"]), number)
        for number, (expected, got) in enumerate(zip(reference["scores"], tested["scores"], strict=True))
    ]
    chosen: dict[tuple[int, int], tuple[float, int]] = {}
    for iou, number in sorted(ious):
        score = tested["scores"][number]
        chosen.setdefault((score["photo"], score["object_id"]), (iou, number))
    return [
        {
            "kind": tested["scores"][number]["kind"],
            "photo": _stem(tested["photos"][tested["scores"][number]["photo"]]),
            "object_id": tested["scores"][number]["object_id"],
            "mask_iou": round(iou, 4),
            "picture_jpeg_base64": _picture(reference, tested, number),
        }
        for iou, number in list(chosen.values())[:WORST]
    ]


def _picture(reference: dict[str, Any], tested: dict[str, Any], number: int) -> str:
    """The reference's mask, then the tested one's, on the same part of the photo."""
    score = tested["scores"][number]
    masks = [_decoded(result["scores"][number]["rle"]) for result in (reference, tested)]
    photo = _read(tested, score["photo"])
    rows, cols = span(masks[0] | masks[1])
    height, width = masks[0].shape
    half = max(32, (rows.stop - rows.start) * 3 // 4, (cols.stop - cols.start) * 3 // 4)
    y, x = (rows.start + rows.stop) // 2, (cols.start + cols.stop) // 2
    part = slice(max(0, y - half), min(height, y + half)), slice(max(0, x - half), min(width, x + half))
    sheet = Image.new("RGB", (2 * TILE_PX + 4, TILE_PX), PAPER)
    for column, mask in enumerate(masks):
        tile = Image.fromarray(draw.overlay(np.ascontiguousarray(photo[part]), [np.ascontiguousarray(mask[part])]))
        tile = ImageOps.contain(tile, (TILE_PX, TILE_PX))  # enlarged, too: a small object is what one cannot see
        sheet.paste(tile, (column * (TILE_PX + 4) + (TILE_PX - tile.width) // 2, (TILE_PX - tile.height) // 2))
    return base64.b64encode(draw.encode_picture(np.asarray(sheet), ".jpg")).decode("ascii")


def _read(result: dict[str, Any], photo: int) -> NDArray[np.uint8]:
    where = result["photos"][photo]
    if not result["truth"]:
        return read_photo(where)
    container = Path(where.rpartition(":")[0])
    return next(record.photo() for record in open_records([container]) if record.where == where)


def _stem(where: str) -> str:
    return Path(where.rpartition(":")[2]).stem


def _has_truth(data: Sequence[Path]) -> bool:
    """Whether any photo has annotations: a tar, or a folder with a pair or a tar in it. Raises DataError."""
    for path in data:
        if not path.exists():
            raise DataError(f"{path} does not exist, expected a folder of photos, or a set in SA-1B's format.")
        if path.is_file() or any(file.suffix in (".json", ".tar") for file in path.iterdir()):
            return True
    return False


def _photos(data: Sequence[Path]) -> list[Path]:
    found = [p for folder in data for p in sorted(folder.iterdir()) if p.suffix.lower() in PHOTO_SUFFIXES]
    if not found:
        raise DataError(f"{', '.join(map(str, data))}: no photo in it, expected JPEG, PNG or WebP files.")
    return found


def _at_fixed_places(engine: Runtime, path: Path, number: int) -> list[dict[str, Any]]:
    photo = read_photo(path)
    height, width = photo.shape[:2]
    centres = np.array(PLACES) * (width, height)
    half = BOX_SHARE / 2 * np.array([width, height])
    boxes = np.concatenate([centres - half, centres + half], axis=1).clip(0, [width, height, width, height])
    predictor = SamPredictor(engine)
    predictor.set_image(photo)
    prompts: dict[str, dict[str, Any]] = {
        "box": {"boxes": boxes},
        "click": {"point_coords": centres[:, None], "point_labels": np.ones((len(centres), 1))},
    }
    return [
        {"kind": kind, "photo": number, "object_id": place, "rle": _encoded(mask[0])}
        for kind, prompt in prompts.items()
        for place, mask in enumerate(
            predictor.predict_batch(**({"point_coords": None, "point_labels": None} | prompt), multimask_output=False)[
                0
            ]
        )
    ]


def _as_data(score: Score) -> dict[str, Any]:
    assert score.rle is not None  # measure() keeps them
    rle = {"size": list(score.rle["size"]), "counts": score.rle["counts"].decode("ascii")}
    return {"kind": score.kind, "photo": score.photo, "object_id": score.object_id, "iou": score.iou, "rle": rle}


def _evaluation(result: dict[str, Any]) -> Evaluation:
    """As `compare_evaluations` takes it; without ground truth every IoU with it is NaN."""
    evaluation = Evaluation()
    for entry in result["scores"]:
        iou = entry.get("iou", float("nan"))
        evaluation.add(Score(entry["kind"], entry["photo"], entry["object_id"], "", "", iou, iou, rle=entry["rle"]))
    return evaluation


def _encoded(mask: NDArray[np.bool_]) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def _decoded(rle: dict[str, Any]) -> NDArray[np.bool_]:
    return np.asarray(coco_mask.decode(rle), bool)
