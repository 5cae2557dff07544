"""The golden photos of an artifact: small photos, one prompt of each kind, and what the reference makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sam_edge.contract import LABEL_EMPTY, PromptTensors, Runtime
from sam_edge.errors import ExportError
from sam_edge.golden_vectors import GoldenPhoto, record
from sam_edge.image import Photo, preprocess, resize_longest_side
from sam_edge.prompts import build_prompts

__all__ = ["golden_photos"]

NUM_PHOTOS = 2
GOLDEN_SIDE = 256  # pixels: the golden photos travel with every artifact


def golden_photos(reference: Runtime, photos: Sequence[Photo]) -> tuple[GoldenPhoto, ...]:
    """The first two of `photos`, made small. Raises ExportError for fewer."""
    if len(photos) < NUM_PHOTOS:
        raise ExportError(f"got {len(photos)} photos, expected two or more: the load-time check compares two.")
    return tuple(_golden_photo(reference, resize_longest_side(photo, GOLDEN_SIDE)) for photo in photos[:NUM_PHOTOS])


def _golden_photo(runtime: Runtime, photo: Photo) -> GoldenPhoto:
    """A box; a click; a click with a background click; a click with the box's mask. Three slots each, some empty."""
    spec, (height, width) = runtime.spec, photo.shape[:2]
    centre, corner = [0.5 * width, 0.5 * height], [0.05 * width, 0.05 * height]
    box = build_prompts(spec, (height, width), boxes=[[0.2 * width, 0.15 * height, 0.8 * width, 0.85 * height]])
    click = build_prompts(spec, (height, width), point_coords=[[centre]], point_labels=[[1]])
    both = build_prompts(spec, (height, width), point_coords=[[centre, corner]], point_labels=[[1, 0]])
    box_logits = runtime.decode(runtime.encode(preprocess(photo, spec)[0]), box).low_res_masks[:, :1]
    again = PromptTensors(click.point_coords, click.point_labels, box_logits, np.ones(1, np.float32))
    return record(runtime, photo, _stack([box, click, both, again]))


def _stack(prompts: list[PromptTensors]) -> PromptTensors:
    """Prompts of one row each in one batch; shorter ones are filled with empty slots."""
    slots = max(prompt.point_labels.shape[1] for prompt in prompts)
    coords, labels = [], []
    for prompt in prompts:
        missing = slots - prompt.point_labels.shape[1]
        coords.append(np.pad(prompt.point_coords, ((0, 0), (0, missing), (0, 0))))
        labels.append(np.pad(prompt.point_labels, ((0, 0), (0, missing)), constant_values=LABEL_EMPTY))
    masks = [prompt.mask_input for prompt in prompts]
    has_masks = [prompt.has_mask_input for prompt in prompts]
    return PromptTensors(*(np.concatenate(rows) for rows in (coords, labels, masks, has_masks)))
