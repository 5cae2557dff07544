"""Training samples: one crop of a photo and a few of its objects, a pure function of (seed, sample number).

Because a sample depends on nothing else, a killed run continues with exactly the samples it would have seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sam_edge.contract import LABEL_EMPTY
from sam_edge.errors import DataError
from sam_edge.evaluate.dataset import MIN_AREA_PX, Object, Record
from sam_edge.evaluate.truth import true_mask
from sam_edge.train.prompting import Prompt, PromptMix, first_prompt
from sam_edge.train.view import View

__all__ = ["AugmentConfig", "Batch", "PromptableDataset", "collate", "split_held_out", "stack_prompts"]

MAX_DRAWS = 1000  # of photos without objects in a row; more, and there are none


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

    def to(self, device: torch.device) -> Batch:
        """The same batch there."""
        return Batch(*(tensor.to(device) for tensor in self))


def split_held_out(records: Sequence[Record], count: int, seed: int = 0) -> tuple[list[Record], list[Record]]:
    """-> (training, held out): `count` photos drawn evenly over all; every choice is made on the second part."""
    order = np.random.default_rng(seed).permutation(len(records))
    held_out = set(order[:count].tolist())
    return [r for i, r in enumerate(records) if i not in held_out], [records[i] for i in sorted(held_out)]


class PromptableDataset(Dataset[dict[str, Any]]):
    """Sample number -> crop, masks and first prompts. `weights` draws photos by source name.

    `by_objects` draws a source's photos in proportion to their objects, as a mean IoU over objects counts them: most
    small objects are in photos with many.
    """

    def __init__(
        self,
        records: Sequence[Record],
        weights: dict[str, float],
        image_size: int,
        objects_per_photo: int,
        augment: AugmentConfig,
        mix: PromptMix,
        seed: int,
        by_objects: bool = False,
    ) -> None:
        self.records = list(records)
        self.image_size = image_size
        self.objects_per_photo = objects_per_photo
        self.augment = augment
        self.mix = mix
        self.seed = seed
        counts = [len(record.objects()) if by_objects else 1 for record in self.records]
        self.cumulative = _cumulative_shares([record.source for record in self.records], counts, weights)

    def __len__(self) -> int:
        return 1 << 40  # a stream: the sampler decides where it ends

    def __getitem__(self, number: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, number])
        for _ in range(MAX_DRAWS):
            index = min(int(np.searchsorted(self.cumulative, rng.random())), len(self.records) - 1)
            record = self.records[index]
            objects = record.objects()
            if objects:
                return self.sample(record, objects, rng)
        raise DataError(
            f"{MAX_DRAWS} photos drawn, the last {self.records[index].where}, and none has an object; expected objects "
            f"of at least {MIN_AREA_PX} px that are not crowds. Annotate more of the photos, or leave those out."
        )

    def of_record(self, record: Record, rng: np.random.Generator) -> dict[str, Any] | None:
        """A sample of one photo, None where it has no objects: for streams, which bring their own photos."""
        objects = record.objects()
        return self.sample(record, objects, rng) if objects else None

    def sample(self, record: Record, objects: list[Object], rng: np.random.Generator) -> dict[str, Any]:
        """One crop of the photo, some of its objects and their prompts. Raises DataError, ImageError."""
        photo = record.photo()
        anchor = objects[int(rng.integers(len(objects)))]
        photo_size = photo.shape[0], photo.shape[1]
        view = self._view(photo_size, true_mask(record, anchor, photo_size), rng)
        masks = self._masks(record, objects, anchor, view, rng)
        prompts = [first_prompt(mask, self.mix, rng) for mask in masks]
        image = self._colour(view.of_photo(photo), rng)
        return {"image": image, "inside": view.inside(), "masks": np.stack(masks), "prompts": prompts}

    def _view(self, photo_size: tuple[int, int], anchor: NDArray[np.bool_], rng: np.random.Generator) -> View:
        """The whole photo, or a window that shows some of the anchor; mirrored or not."""
        augment, size = self.augment, self.image_size
        height, width = photo_size
        flip = rng.random() < augment.flip_share
        if rng.random() < augment.whole_photo_share:
            view = View.whole(photo_size, size)
        else:
            zoom = float(np.exp(rng.uniform(np.log(augment.min_zoom), np.log(augment.max_zoom))))
            window = max(height, width) / zoom
            ys, xs = np.nonzero(anchor)
            pick = int(rng.integers(len(xs)))
            left = _window_start(float(xs[pick]), window, width, rng)
            top = _window_start(float(ys[pick]), window, height, rng)
            view = View.window(photo_size, size, size / window, left, top)
        return view.flipped() if flip else view

    def _masks(
        self, record: Record, objects: list[Object], anchor: Object, view: View, rng: np.random.Generator
    ) -> list[NDArray[np.uint8]]:
        """`objects_per_photo` masks that are visible in the frame; few objects are repeated with other prompts."""
        others = [objects[i] for i in rng.permutation(len(objects)) if objects[i] is not anchor]
        masks: list[NDArray[np.uint8]] = []
        for candidate in [anchor, *others]:
            mask = view.of_mask(true_mask(record, candidate, view.photo_size))
            if int(mask.sum()) >= self.augment.min_visible_px:
                masks.append(mask)
            if len(masks) == self.objects_per_photo:
                break
        if not masks:  # only specks in this window: the anchor, as small as it is
            masks = [view.of_mask(anchor.mask())]
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


def _cumulative_shares(sources: Sequence[str], counts: Sequence[int], weights: dict[str, float]) -> NDArray[np.float64]:
    """How likely it is that a photo, or one before it, is drawn. Raises DataError for weights that draw none."""
    if not sources:  # a stream brings its own photos, in its own order
        return np.zeros(0)
    of_source: Counter[str] = Counter()
    for source, count in zip(sources, counts, strict=True):
        of_source[source] += count
    absent = [name for name, weight in weights.items() if weight and name not in of_source]
    if absent or min(weights.values(), default=0.0) < 0:
        raise DataError(
            f"weights of sources {weights}; expected weights of 0 or more for sources of the data, which are "
            f"{', '.join(sorted(of_source))}. A source is a folder's name, or a tar's without its number."
        )
    each = np.array(
        [weights.get(source, 1.0) * n / max(1, of_source[source]) for source, n in zip(sources, counts, strict=True)]
    )
    if each.sum() == 0:
        raise DataError(
            f"weights of sources {weights}; expected one above 0, for photos with objects, or none is ever drawn."
        )
    return np.cumsum(each / each.sum())


def _window_start(centre: float, window: float, side: int, rng: np.random.Generator) -> float:
    """Where a window that shows `centre` starts, never leaving the photo further than it must."""
    start = centre - window * rng.uniform(0.15, 0.85)
    return float(min(max(start, 0.0), max(side - window, 0.0)))


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
