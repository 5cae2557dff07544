"""Simulated prompts: what a person would click or draw for an object, and how they would correct a mask.

First prompts follow Segment Anything, appendix A (training algorithm), with the field's evaluation clicks mixed in; the
corrections follow RITM (arXiv 2102.06583): the next click goes into the largest wrong region.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_edge.contract import (
    LABEL_BACKGROUND,
    LABEL_BOX_BOTTOM_RIGHT,
    LABEL_BOX_TOP_LEFT,
    LABEL_FOREGROUND,
    LABEL_PADDING,
    MASK_STRIDE,
    Float32,
)

__all__ = ["Prompt", "PromptMix", "correction_clicks", "first_prompt"]

MASK_LOGIT = 8.0  # a mask prompt made from a drawing says +-8


class Prompt(NamedTuple):
    """coords (N, 2) px, labels (N,), mask_input (S/4, S/4), has_mask 0 or 1, kind: a key of PromptMix."""

    coords: Float32
    labels: Float32
    mask_input: Float32
    has_mask: float
    kind: str


@dataclass(frozen=True)
class PromptMix:
    """Shares of the kinds of first prompt; `centre_clicks`: share of clicks at the point farthest from the outline."""

    box: float = 0.22
    box_jitter: float = 0.2
    click: float = 0.42
    clicks: float = 0.06
    box_click: float = 0.04
    mask_click: float = 0.06
    centre_clicks: float = 0.5
    background_share: float = 0.3

    def with_click_share(self, click: float, centre_clicks: float) -> PromptMix:
        """The same mix with another share of single clicks, the other kinds keeping their proportions."""
        others = {kind: getattr(self, kind) for kind in KINDS if kind != "click"}
        scale = (1 - click) / sum(others.values())
        scaled = {kind: share * scale for kind, share in others.items()}
        return replace(self, click=click, centre_clicks=centre_clicks, **scaled)


KINDS = ("box", "box_jitter", "click", "clicks", "box_click", "mask_click")


def first_prompt(mask: NDArray[np.uint8], mix: PromptMix, rng: np.random.Generator) -> Prompt:
    """A first prompt for mask (S, S) in {0, 1}; an empty mask gets a click anywhere."""
    shares = np.array([getattr(mix, kind) for kind in KINDS])
    kind = KINDS[int(rng.choice(len(KINDS), p=shares / shares.sum()))]
    side = mask.shape[0] // MASK_STRIDE
    mask_input, has_mask = np.zeros((side, side), np.float32), 0.0
    if kind in ("box", "box_jitter"):
        points = _box(mask, rng if kind == "box_jitter" else None)
    elif kind == "box_click":
        points = [(*_click(mask, mix, rng), LABEL_FOREGROUND), *_box(mask, rng)]
    elif kind == "clicks":
        points = _several_clicks(mask, mix, rng)
    else:
        points = [(*_click(mask, mix, rng), LABEL_FOREGROUND), (0.0, 0.0, LABEL_PADDING)]
        if kind == "mask_click":
            mask_input, has_mask = _drawn_mask(mask, rng), 1.0
    array = np.array(points, np.float32)
    return Prompt(array[:, :2], array[:, 2], mask_input, has_mask, kind)


def _box(mask: NDArray[np.uint8], rng: np.random.Generator | None) -> list[tuple[float, float, int]]:
    """The tight box by pixel edges; with `rng` each side moved by a normal draw of 10 % of the side (at most 20 px)."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if len(columns) == 0:
        return [(0.0, 0.0, LABEL_BOX_TOP_LEFT), (float(mask.shape[1]), float(mask.shape[0]), LABEL_BOX_BOTTOM_RIGHT)]
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
    if rng is not None:
        sides = np.tile(box[2:] - box[:2], 2)
        moved = box + np.clip(rng.normal(size=4) * 0.1 * sides, -20, 20)
        moved = np.clip(moved, 0, mask.shape[0])
        if moved[2] > moved[0] + 1 and moved[3] > moved[1] + 1:
            box = moved
    return [(box[0], box[1], LABEL_BOX_TOP_LEFT), (box[2], box[3], LABEL_BOX_BOTTOM_RIGHT)]


def _click(mask: NDArray[np.uint8], mix: PromptMix, rng: np.random.Generator) -> tuple[float, float]:
    """A pixel of the object: half the time the one farthest from its outline, else any, the deeper the likelier."""
    ys, xs = np.nonzero(mask)
    if len(xs) == 0:
        return float(rng.integers(mask.shape[1])), float(rng.integers(mask.shape[0]))
    x0, y0 = int(xs.min()), int(ys.min())
    crop = np.pad(mask[y0 : int(ys.max()) + 1, x0 : int(xs.max()) + 1], 1)
    depth = cv2.distanceTransform(crop, cv2.DIST_L2, 5)[1:-1, 1:-1]
    if rng.random() < mix.centre_clicks:
        flat = int(depth.argmax())
    else:
        weights = depth.ravel().astype(np.float64)
        flat = int(np.searchsorted(np.cumsum(weights), rng.random() * weights.sum()))
        flat = min(flat, weights.size - 1)
    y, x = divmod(flat, depth.shape[1])
    return float(x + x0), float(y + y0)


def _several_clicks(
    mask: NDArray[np.uint8], mix: PromptMix, rng: np.random.Generator
) -> list[tuple[float, float, int]]:
    points = [(*_click(mask, mix, rng), LABEL_FOREGROUND)]
    for _ in range(int(rng.integers(1, 4))):
        if rng.random() < mix.background_share:
            ring = cv2.dilate(mask, np.ones((15, 15), np.uint8)).astype(np.uint8) - mask
            points.append((*_click(ring if ring.any() else 1 - mask, mix, rng), LABEL_BACKGROUND))
        else:
            points.append((*_click(mask, mix, rng), LABEL_FOREGROUND))
    return [*points, (0.0, 0.0, LABEL_PADDING)]


def _drawn_mask(mask: NDArray[np.uint8], rng: np.random.Generator) -> Float32:
    """The object as somebody would have drawn it: eroded or dilated by up to 15 % of its radius, as logits of +-8."""
    radius = np.sqrt(mask.sum() / np.pi)
    amount = int(abs(rng.normal()) * 0.08 * radius)
    if amount > 0:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * amount + 1, 2 * amount + 1))
        changed = cv2.erode(mask, kernel) if rng.random() < 0.6 else cv2.dilate(mask, kernel)
        mask = changed.astype(np.uint8) if changed.any() else mask
    side = mask.shape[0] // MASK_STRIDE
    small = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return ((small * 2 - 1) * MASK_LOGIT).astype(np.float32)


def correction_clicks(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[Float32, Float32]:
    """The next click for each of B masks at low resolution, both (B, S/4, S/4).

    Returns coords (B, 2) in pixels of the model's frame and labels (B,). The click goes to the deepest place of what
    was missed (foreground) or wrongly covered (background), whichever is deeper; a perfect mask gets one at its centre.
    """
    coords, labels = np.zeros((len(truth), 2), np.float32), np.zeros(len(truth), np.float32)
    for i, (got, want) in enumerate(zip(predicted, truth, strict=True)):
        missed, covered = _deepest(want & ~got), _deepest(got & ~want)
        foreground = missed[0] > covered[0]
        depth, x, y = missed if foreground else covered
        if depth == 0:
            foreground = bool(want.any())
            depth, x, y = _deepest(want if foreground else ~want)
        coords[i] = (x + 0.5) * MASK_STRIDE - 0.5, (y + 0.5) * MASK_STRIDE - 0.5
        labels[i] = LABEL_FOREGROUND if foreground else LABEL_BACKGROUND
    return coords, labels


def _deepest(region: NDArray[np.bool_]) -> tuple[float, int, int]:
    """(depth, x, y) of the place farthest from the region's outline, the frame's border counted as outside."""
    if not region.any():
        return 0.0, 0, 0
    depth = cv2.distanceTransform(np.pad(region.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = divmod(int(depth.argmax()), depth.shape[1])
    return float(depth[y, x]), x, y
