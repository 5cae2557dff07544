"""Contact sheets of an evaluation: the best, median and worst masks of each prompt kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from sam_edge import draw
from sam_edge.evaluate import simulate
from sam_edge.evaluate.dataset import Record
from sam_edge.evaluate.metrics import span
from sam_edge.evaluate.protocol import Evaluation, Score
from sam_edge.files import write_bytes_atomically

__all__ = ["PICTURE_KINDS", "write_contact_sheets"]

PICTURE_KINDS = ("box", "click")  # whose masks an evaluation has to keep (`keep_masks`)
COLUMNS = 6
TILE_PX = 256
CAPTION_PX = 20
MARGIN_PX = 8
MIN_WINDOW_PX = 64
PAPER = (250, 250, 250)
INK = (30, 30, 30)


def write_contact_sheets(evaluation: Evaluation, records: Sequence[Record], directory: Path) -> list[Path]:
    """Write `<kind>.png` for each of PICTURE_KINDS that was evaluated with its masks kept. Raises OutputError."""
    written = []
    for kind in PICTURE_KINDS:
        scores = [score for score in evaluation.of(kind) if score.rle is not None]
        if scores:
            path = directory / f"{kind}.png"
            write_bytes_atomically(path, draw.encode_picture(contact_sheet(scores, records), ".png"))
            written.append(path)
    return written


def contact_sheet(scores: Sequence[Score], records: Sequence[Record]) -> NDArray[np.uint8]:
    """Three rows of tiles, best, median and worst by IoU: the mask tinted, the truth's outline in orange."""
    rows = list(_choose(scores))
    height = CAPTION_PX + TILE_PX + CAPTION_PX + MARGIN_PX
    columns = max(len(chosen) for _, chosen in rows)
    sheet = Image.new("RGB", (MARGIN_PX + columns * (TILE_PX + MARGIN_PX), MARGIN_PX + len(rows) * height), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for line, (title, chosen) in enumerate(rows):
        top = MARGIN_PX + line * height
        pen.text((MARGIN_PX, top), f"{title} ({scores[0].kind})", INK, font)
        for column, score in enumerate(chosen):
            left = MARGIN_PX + column * (TILE_PX + MARGIN_PX)
            sheet.paste(_tile(score, records[score.photo]), (left, top + CAPTION_PX))
            pen.text((left, top + CAPTION_PX + TILE_PX), f"IoU {score.iou:.3f}  object {score.object_id}", INK, font)
    return np.asarray(sheet)


def _choose(scores: Sequence[Score]) -> Iterator[tuple[str, list[Score]]]:
    ranked = sorted(scores, key=lambda score: (-score.iou, score.object_id))
    middle = max(0, (len(ranked) - COLUMNS) // 2)
    yield "best", ranked[:COLUMNS]
    yield "median", ranked[middle : middle + COLUMNS]
    yield "worst", ranked[-COLUMNS:]


def _tile(score: Score, record: Record) -> Image.Image:
    """The object with its surroundings, enlarged: many objects are a few pixels of their photo."""
    truth = next(found for found in record.objects() if found.id == score.object_id).mask()
    predicted = coco_mask.decode(score.rle).astype(bool)
    box, click = simulate.tight_box(truth), simulate.first_click(truth)
    rows, cols = _window(truth | predicted)
    scale = TILE_PX / max(rows.stop - rows.start, cols.stop - cols.start)
    width, height = (max(1, round((part.stop - part.start) * scale)) for part in (cols, rows))
    photo = Image.fromarray(record.photo()[rows, cols]).resize((width, height), Image.Resampling.LANCZOS)
    corner = np.array([cols.start, rows.start])
    centre = (np.array([click.x, click.y]) - corner + 0.5) * scale - 0.5
    picture = draw.comparison(
        np.asarray(photo),
        _resized(predicted[rows, cols], (width, height)),
        _resized(truth[rows, cols], (width, height)),
        points=[(float(centre[0]), float(centre[1]), click.label)] if score.kind == "click" else [],
        boxes=[(box - np.tile(corner, 2)) * scale] if score.kind == "box" else [],
    )
    tile = Image.new("RGB", (TILE_PX, TILE_PX), PAPER)
    tile.paste(Image.fromarray(picture), ((TILE_PX - width) // 2, (TILE_PX - height) // 2))
    return tile


def _window(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of a square of twice the mask's longer side around it, cut off at the photo (H, W)."""
    rows, cols = span(mask)
    half = max(MIN_WINDOW_PX // 2, rows.stop - rows.start, cols.stop - cols.start)
    y, x = (rows.start + rows.stop) // 2, (cols.start + cols.stop) // 2
    height, width = mask.shape
    return slice(max(0, y - half), min(height, y + half)), slice(max(0, x - half), min(width, x + half))


def _resized(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A (h, w) bool mask at size (width, height)."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)) > 127
