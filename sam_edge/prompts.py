"""From what a user asks (points, a box, an earlier mask) to the decoder's tensors. Every check of user input is here.

Two ways in: `build_prompts` takes pixels of the photo and checks that they lie on it; `assemble_prompts` takes pixels
of the resized image, already scaled, as segment-anything's `predict_torch` does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sam_edge.contract import (
    LABEL_BACKGROUND,
    LABEL_BOX_BOTTOM_RIGHT,
    LABEL_BOX_TOP_LEFT,
    LABEL_EMPTY,
    LABEL_FOREGROUND,
    LABEL_PADDING,
    ModelSpec,
    PromptTensors,
)
from sam_edge.errors import PromptError, check_shape
from sam_edge.image import Size, resized_size

__all__ = ["assemble_prompts", "build_prompts", "scale_boxes", "scale_points"]

USER_LABELS = (LABEL_BACKGROUND, LABEL_FOREGROUND, LABEL_PADDING)


def scale_points(coords: ArrayLike, original_size: Size, input_size: Size) -> NDArray[np.float64]:
    """(..., 2) x, y in the photo's pixels to the resized image's, in float64.

    Each axis by its own ratio, since both sides were rounded (transforms.py of segment-anything).
    """
    ratios = np.array([input_size[1] / original_size[1], input_size[0] / original_size[0]])
    scaled: NDArray[np.float64] = np.asarray(coords, np.float64) * ratios
    return scaled


def scale_boxes(boxes: ArrayLike, original_size: Size, input_size: Size) -> NDArray[np.float64]:
    """(..., 4) xyxy in the photo's pixels to the resized image's, in float64."""
    corners = np.asarray(boxes, np.float64)
    return scale_points(corners.reshape(*corners.shape[:-1], 2, 2), original_size, input_size).reshape(corners.shape)


def build_prompts(
    spec: ModelSpec,
    original_size: Size,
    *,
    point_coords: ArrayLike | None = None,
    point_labels: ArrayLike | None = None,
    boxes: ArrayLike | None = None,
    mask_input: ArrayLike | None = None,
) -> PromptTensors:
    """Prompts in pixels of the photo, checked, as the decoder's tensors.

    point_coords (B, N, 2) x, y; point_labels (B, N): 1 foreground, 0 background, -1 padding; boxes (B, 4) xyxy, which
    may pass the photo's border but must overlap it; mask_input (B or 1, 1, S/4, S/4) logits. Any may be None.
    Raises PromptError.
    """
    input_size = resized_size(original_size, spec.image_size)
    coords, labels = _read_points(point_coords, point_labels)
    if coords is not None and labels is not None:
        _check_points_on_photo(coords, labels, original_size)
        coords = scale_points(coords, original_size, input_size)
    corners = _read_boxes(boxes)
    if corners is not None:
        _check_boxes_on_photo(corners, original_size)
        corners = scale_boxes(corners, original_size, input_size)
    return _assemble(spec, coords, labels, corners, _read_mask_input(mask_input, spec))


def assemble_prompts(
    spec: ModelSpec,
    *,
    point_coords: ArrayLike | None = None,
    point_labels: ArrayLike | None = None,
    boxes: ArrayLike | None = None,
    mask_input: ArrayLike | None = None,
) -> PromptTensors:
    """As build_prompts, but points and boxes are in pixels of the resized image, wherever they lie."""
    coords, labels = _read_points(point_coords, point_labels)
    return _assemble(spec, coords, labels, _read_boxes(boxes), _read_mask_input(mask_input, spec))


def _assemble(
    spec: ModelSpec,
    coords: NDArray[np.float64] | None,
    labels: NDArray[np.float64] | None,
    boxes: NDArray[np.float64] | None,
    mask_input: NDArray[np.float32] | None,
) -> PromptTensors:
    """SAM's slots (prompt_encoder.py): the points, then a box's corners, or one padding point where no box is."""
    count = _common_batch(coords, boxes, mask_input)
    slots: list[NDArray[np.float64]] = []  # each (B, n, 2)
    codes: list[NDArray[np.float64]] = []  # each (B, n)
    if coords is not None and labels is not None:
        slots.append(coords)
        codes.append(labels)
    if boxes is not None:
        slots.append(boxes.reshape(count, 2, 2))
        codes.append(np.tile([float(LABEL_BOX_TOP_LEFT), float(LABEL_BOX_BOTTOM_RIGHT)], (count, 1)))
    else:
        filler = LABEL_EMPTY if coords is None else LABEL_PADDING
        slots.append(np.zeros((count, 1, 2)))
        codes.append(np.full((count, 1), float(filler)))
    mask_shape = (count, 1, spec.mask_size, spec.mask_size)
    return PromptTensors(
        point_coords=np.concatenate(slots, axis=1).astype(np.float32),
        point_labels=np.concatenate(codes, axis=1).astype(np.float32),
        mask_input=np.zeros(mask_shape, np.float32)
        if mask_input is None
        else np.broadcast_to(mask_input, mask_shape).copy(),
        has_mask_input=np.full(count, float(mask_input is not None), np.float32),
    )


def _common_batch(
    coords: NDArray[np.float64] | None, boxes: NDArray[np.float64] | None, mask_input: NDArray[np.float32] | None
) -> int:
    """The number of prompts B; 1 when nothing says otherwise. One mask input serves any number of prompts."""
    given = {"point_coords": coords, "boxes": boxes, "mask_input": mask_input}
    sizes = {name: len(array) for name, array in given.items() if array is not None}
    if sizes.get("mask_input") == 1 and len(sizes) > 1:
        del sizes["mask_input"]
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise PromptError(
            f"the prompts have different batch sizes ({counts}), expected one. Give one of each a prompt."
        )
    return next(iter(sizes.values()), 1)


def _read_points(
    point_coords: ArrayLike | None, point_labels: ArrayLike | None
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """(B, N, 2) and (B, N) as float64, or two None."""
    if point_coords is None and point_labels is None:
        return None, None
    if point_labels is None:
        raise PromptError("point_coords came without point_labels. Give a label for each: 1 foreground, 0 background.")
    if point_coords is None:
        raise PromptError("point_labels came without point_coords. Give one point (x, y) for each label.")
    coords = _read_numbers("point_coords", point_coords)
    check_shape("point_coords", coords, ("B", "N", 2), "Give x, y for each of N points of B prompts.")
    if coords.size == 0:
        raise PromptError(f"point_coords has shape {coords.shape}: no point. Leave it out where there is none.")
    labels = _read_numbers("point_labels", point_labels)
    check_shape("point_labels", labels, coords.shape[:2], "Give one label for each point.")
    unknown = labels[~np.isin(labels, USER_LABELS)]
    if unknown.size:
        raise PromptError(
            f"point_labels has {unknown[0]:g}, expected 1 (foreground), 0 (background) or -1 (padding). "
            "A box has its own argument."
        )
    return coords, labels


def _read_boxes(boxes: ArrayLike | None) -> NDArray[np.float64] | None:
    """(B, 4) as float64 with x0 < x1 and y0 < y1, or None."""
    if boxes is None:
        return None
    corners = _read_numbers("boxes", boxes)
    check_shape("boxes", corners, ("B", 4), "Give x0, y0, x1, y1 in pixels.")
    if corners.size == 0:
        raise PromptError(f"boxes has shape {corners.shape}: no box. Leave it out where there is none.")
    bad = (corners[:, 2:] <= corners[:, :2]).any(axis=1)
    if bad.any():
        raise PromptError(
            f"box {_show(corners[bad][0])} is empty or inverted, expected x0 < x1 and y0 < y1. "
            "Give the top-left corner first."
        )
    return corners


def _read_mask_input(mask_input: ArrayLike | None, spec: ModelSpec) -> NDArray[np.float32] | None:
    """(B, 1, S/4, S/4) float32, or None."""
    if mask_input is None:
        return None
    logits = _read_numbers("mask_input", mask_input).astype(np.float32)
    check_shape(
        "mask_input",
        logits,
        ("B", 1, spec.mask_size, spec.mask_size),
        f"Pass low_res_masks of an earlier prediction by {spec.name}: one mask a prompt.",
    )
    if len(logits) == 0:
        raise PromptError(f"mask_input has shape {logits.shape}: no mask. Leave it out where there is none.")
    return logits


def _read_numbers(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Any real numbers as a finite float64 array."""
    try:
        array: NDArray[Any] = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise PromptError(f"{name} is not an array of numbers ({error}). Give rows of equal length.") from error
    if array.dtype.kind not in "biuf":
        raise PromptError(f"{name} has dtype {array.dtype}, expected integers or floats. Convert it to numbers first.")
    numbers = array.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise PromptError(f"{name} has NaN or infinite values, expected finite numbers. Check where they come from.")
    return numbers


def _check_points_on_photo(coords: NDArray[np.float64], labels: NDArray[np.float64], original_size: Size) -> None:
    height, width = original_size
    outside = ((coords < 0) | (coords > (width, height))).any(axis=-1) & (labels != LABEL_PADDING)
    if outside.any():
        raise PromptError(
            f"point {_show(coords[outside][0])} is outside the photo, expected x from 0 to {width} and y from 0 to "
            f"{height}. Give pixels of the original photo, x first."
        )


def _check_boxes_on_photo(boxes: NDArray[np.float64], original_size: Size) -> None:
    height, width = original_size
    outside = (boxes[:, :2] >= (width, height)).any(axis=1) | (boxes[:, 2:] <= 0).any(axis=1)
    if outside.any():
        raise PromptError(
            f"box {_show(boxes[outside][0])} does not overlap the photo of {width} x {height} pixels. "
            "Give x0, y0, x1, y1 in pixels of the original photo."
        )


def _show(numbers: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{number:g}" for number in numbers) + ")"
