"""The files that `sam-edge segment` writes: their names, formats and contents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam_edge.errors import OutputError

if TYPE_CHECKING:
    from sam_edge.image import Photo

__all__ = ["FORMATS", "default_output", "output_paths", "write_masks"]

# Format to the file endings that can hold it: a mask must not be lossy, a cutout needs an alpha channel.
FORMATS: dict[str, tuple[str, ...]] = {
    "overlay": (".png", ".jpg", ".jpeg", ".webp"),
    "mask": (".png",),
    "cutout": (".png", ".webp"),
    "rle": (".json",),
}


def default_output(image: str, format_name: str) -> Path:
    """`photo.overlay.png` in the current folder for any path that ends in photo.jpg."""
    return Path(f"{Path(image).stem}.{format_name}{FORMATS[format_name][0]}")


def output_paths(output: str | Path, format_name: str, count: int, image: str) -> list[Path]:
    """`output` for one file, `name.1.png`, `name.2.png`, ... for several.

    Raises UsageError for an ending that the format cannot be written to, OutputError if the photo itself would go.
    """
    path = Path(output)
    allowed = FORMATS[format_name]
    if path.suffix.lower() not in allowed:
        raise click.UsageError(
            f"-o {path} does not fit --format {format_name}: expected a name ending in {' or '.join(allowed)}."
        )
    paths = [path] if count == 1 else [path.with_suffix(f".{number}{path.suffix}") for number in range(1, count + 1)]
    if Path(image).resolve() in (candidate.resolve() for candidate in paths):
        raise OutputError(f"{path} is the photo itself and is not replaced. Choose another name with -o.")
    return paths


def write_masks(
    paths: Sequence[Path],
    format_name: str,
    photo: Photo,
    masks: Sequence[dict[str, Any]],
    *,
    points: Sequence[tuple[float, float, int]],
    boxes: Sequence[Sequence[float]],
) -> list[Path]:
    """Write all masks into one path, or each into its own, and return the paths. Raises OutputError.

    masks: with "area" and "segmentation" (COCO's compressed run lengths). The prompts are marked in overlays.
    """
    from sam_edge.files import write_bytes_atomically

    groups = [masks] if len(paths) == 1 else [[mask] for mask in masks]
    for path, group in zip(paths, groups, strict=True):
        write_bytes_atomically(path, _content(path, format_name, photo, group, points, boxes))
    return list(paths)


def _content(
    path: Path,
    format_name: str,
    photo: Photo,
    masks: Sequence[dict[str, Any]],
    points: Sequence[tuple[float, float, int]],
    boxes: Sequence[Sequence[float]],
) -> bytes:
    if format_name == "rle":
        return (json.dumps([mask["segmentation"] for mask in masks]) + "\n").encode()

    import numpy as np

    from sam_edge import draw
    from sam_edge.rle import coco_to_mask

    suffix = path.suffix.lower()
    if format_name == "overlay":
        largest_first = sorted(masks, key=lambda mask: -mask["area"])
        drawn = (coco_to_mask(mask["segmentation"]) for mask in largest_first)
        outline = draw.WHITE if len(masks) == 1 else None
        return draw.encode_picture(draw.overlay(photo, drawn, outline=outline, points=points, boxes=boxes), suffix)
    mask = coco_to_mask(masks[0]["segmentation"])
    if format_name == "mask":
        return draw.encode_picture(np.where(mask, 255, 0).astype(np.uint8), suffix)
    if not mask.any():
        raise OutputError(f"{path} is not written: the mask is empty, there is nothing to cut out. Try another prompt.")
    return draw.encode_picture(draw.cutout(photo, mask), suffix)
