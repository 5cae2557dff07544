"""Training samples: one crop of a photo and a few of its objects, a pure function of (seed, sample number).

Because a sample depends on nothing else, a killed run continues with exactly the samples it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sam_edge.contract import LABEL_EMPTY
from sam_edge.evaluate.dataset import Object, Record
from sam_edge.train.prompting import Prompt, PromptMix, first_prompt

__all__ = ["AugmentConfig", "Batch", "PromptableDataset", "collate", "split_held_out", "stack_prompts"]


@dataclass(frozen=True)
class AugmentConfig:
    """How a crop is taken: `zoom` 1 shows the whole photo, 2 a window of half its longest side."""

    min_zoom: float = 0.85
    max_zoom: float = 2.4
    whole_photo_share: float = 0.35
    flip_share: float = 0.5
    max_colour_gain: float = 0.25
    grey_share: float = 0.05
    min_visible_px: int = 36  # of an object, at the model's input size


class Batch(NamedTuple):
    """images (n, 3, S, S) uint8; masks (n * K, S, S) uint8; prompts for each mask; `is_click` (n * K,) bool."""

    images: Tensor
    padding: Tensor
    masks: Tensor
    point_coords: Tensor
    point_labels: Tensor
    mask_input: Tensor
    has_mask_input: Tensor
    is_click: Tensor


def split_held_out(records: Sequence[Record], count: int, seed: int = 0) -> tuple[list[Record], list[Record]]:
    """-> (training, held out): `count` photos drawn evenly over all; every choice is made on the second part."""
    order = np.random.default_rng(seed).permutation(len(records))
    held_out = set(order[:count].tolist())
    return [r for i, r in enumerate(records) if i not in held_out], [records[i] for i in sorted(held_out)]


class PromptableDataset(Dataset[dict[str, Any]]):
    """Sample number -> crop, masks and first prompts. `weights` draws photos by source name."""

    def __init__(
        self,
        records: Sequence[Record],
        weights: dict[str, float],
        image_size: int,
        objects_per_photo: int,
        augment: AugmentConfig,
        mix: PromptMix,
        seed: int,
    ) -> None:
        self.records = list(records)
        self.image_size = image_size
        self.objects_per_photo = objects_per_photo
        self.augment = augment
        self.mix = mix
        self.seed = seed
        counts: dict[str, int] = {}
        for record in self.records:
            counts[record.source] = counts.get(record.source, 0) + 1
        each = np.array([weights.get(r.source, 1.0) / counts[r.source] for r in self.records])
        self.cumulative = np.cumsum(each / each.sum())

    def __len__(self) -> int:
        return 1 << 40  # a stream: the sampler decides where it ends

    def __getitem__(self, number: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, number])
        while True:
            index = min(int(np.searchsorted(self.cumulative, rng.random())), len(self.records) - 1)
            record = self.records[index]
            objects = record.objects()
            if objects:
                return self.sample(record, objects, rng)

    def of_record(self, record: Record, rng: np.random.Generator) -> dict[str, Any] | None:
        """A sample of one photo, None where it has no objects: for streams, which bring their own photos."""
        objects = record.objects()
        return self.sample(record, objects, rng) if objects else None

    def sample(self, record: Record, objects: list[Object], rng: np.random.Generator) -> dict[str, Any]:
        size = self.image_size
        photo = record.photo()
        anchor = objects[int(rng.integers(len(objects)))]
        matrix = self._window(photo.shape[:2], anchor.mask(), rng)
        image = cv2.warpAffine(
            photo, matrix, (size, size), flags=_interpolation(matrix), borderMode=cv2.BORDER_CONSTANT
        )
        inside = cv2.warpAffine(
            np.ones(photo.shape[:2], np.uint8), matrix, (size, size), flags=cv2.INTER_NEAREST, borderValue=0
        )
        masks = self._masks(objects, anchor, matrix, rng)
        prompts = [first_prompt(mask, self.mix, rng) for mask in masks]
        image = self._colour(image.astype(np.uint8, copy=False), rng)
        return {"image": image, "inside": inside, "masks": np.stack(masks), "prompts": prompts}

    def _window(
        self, photo_size: tuple[int, ...], anchor: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """The affine map (2, 3) from the photo to the model's frame."""
        augment, size = self.augment, self.image_size
        height, width = photo_size
        flip = rng.random() < augment.flip_share
        if rng.random() < augment.whole_photo_share:
            scale, x0, y0 = size / max(height, width), 0.0, 0.0  # as at inference: the photo at the top left
        else:
            zoom = float(np.exp(rng.uniform(np.log(augment.min_zoom), np.log(augment.max_zoom))))
            window = max(height, width) / zoom
            scale = size / window
            ys, xs = np.nonzero(anchor)
            pick = int(rng.integers(len(xs)))
            x0 = _window_start(float(xs[pick]), window, width, rng)
            y0 = _window_start(float(ys[pick]), window, height, rng)
        matrix = np.array([[scale, 0, -x0 * scale], [0, scale, -y0 * scale]])
        matrix[:, 2] += 0.5 * scale - 0.5  # pixel centres onto pixel centres
        if flip:
            visible = min(size, (width - x0) * scale)  # mirrored in place, so that padding stays on the right
            matrix[0] = [-scale, 0, visible - 1 - matrix[0, 2]]
        return matrix

    def _masks(
        self, objects: list[Object], anchor: Object, matrix: NDArray[np.float64], rng: np.random.Generator
    ) -> list[NDArray[np.uint8]]:
        """`objects_per_photo` masks that are visible in the frame; few objects are repeated with other prompts."""
        others = [objects[i] for i in rng.permutation(len(objects)) if objects[i] is not anchor]
        masks: list[NDArray[np.uint8]] = []
        for candidate in [anchor, *others]:
            mask = _warp_mask(candidate.mask(), matrix, self.image_size)
            if int(mask.sum()) >= self.augment.min_visible_px:
                masks.append(mask)
            if len(masks) == self.objects_per_photo:
                break
        if not masks:  # only specks in this window: the anchor, as small as it is
            masks = [_warp_mask(anchor.mask(), matrix, self.image_size)]
        return [masks[i % len(masks)] for i in range(self.objects_per_photo)]

    def _colour(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        gain = self.augment.max_colour_gain
        mixed = image.astype(np.float32)
        mixed *= (1 + rng.uniform(-gain, gain)) * (1 + rng.uniform(-gain / 3, gain / 3, size=3)).astype(np.float32)
        mean = float(mixed.mean())
        mixed = (mixed - mean) * (1 + rng.uniform(-gain, gain)) + mean
        if rng.random() < self.augment.grey_share:
            mixed[:] = mixed.mean(2, keepdims=True)
        return np.clip(mixed, 0, 255).astype(np.uint8)


def _window_start(centre: float, window: float, side: int, rng: np.random.Generator) -> float:
    """Where a window that shows `centre` starts, never leaving the photo further than it must."""
    start = centre - window * rng.uniform(0.15, 0.85)
    return float(min(max(start, 0.0), max(side - window, 0.0)))


def _interpolation(matrix: NDArray[np.float64]) -> int:
    return cv2.INTER_AREA if abs(matrix[1, 1]) < 1 else cv2.INTER_LINEAR


def _warp_mask(mask: NDArray[np.bool_], matrix: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    soft = cv2.warpAffine(mask.astype(np.uint8) * 255, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=0)
    return (soft > 127).astype(np.uint8)


def collate(samples: list[dict[str, Any]]) -> Batch:
    """Stack samples; prompts get as many slots as the longest needs, the rest are empty (label -2)."""
    prompts = [prompt for sample in samples for prompt in sample["prompts"]]
    point_coords, point_labels, mask_input, has_mask_input = stack_prompts(prompts)
    return Batch(
        images=torch.from_numpy(np.stack([s["image"] for s in samples]).transpose(0, 3, 1, 2).copy()),
        padding=torch.from_numpy(np.stack([s["inside"] for s in samples])),
        masks=torch.from_numpy(np.concatenate([s["masks"] for s in samples])),
        point_coords=point_coords,
        point_labels=point_labels,
        mask_input=mask_input,
        has_mask_input=has_mask_input,
        is_click=torch.tensor([p.kind == "click" for p in prompts]),
    )


def stack_prompts(prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> point_coords (B, N, 2), point_labels (B, N), mask_input (B, 1, S/4, S/4), has_mask_input (B,), float32."""
    slots = max(len(p.labels) for p in prompts)
    coords = np.zeros((len(prompts), slots, 2), np.float32)
    labels = np.full((len(prompts), slots), LABEL_EMPTY, np.float32)
    for i, prompt in enumerate(prompts):
        coords[i, : len(prompt.labels)] = prompt.coords
        labels[i, : len(prompt.labels)] = prompt.labels
    return (
        torch.from_numpy(coords),
        torch.from_numpy(labels),
        torch.from_numpy(np.stack([p.mask_input for p in prompts])[:, None]),
        torch.tensor([p.has_mask for p in prompts], dtype=torch.float32),
    )
