"""Samples of distillation: a whole photo, the teacher's embedding of it, and places to prompt.

Photos stay whole and as they are, because the teacher's embedding was computed once and belongs to exactly that photo
(MobileSAM, arXiv 2306.14289, section 3, stores it in the same way).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sam_edge.evaluate.dataset import Record
from sam_edge.evaluate.truth import true_mask
from sam_edge.image import resize_longest_side
from sam_edge.train.embeddings import EmbeddingCache

__all__ = ["DistillBatch", "DistillDataset", "collate_distill"]


class DistillBatch(NamedTuple):
    """n photos, K objects of each; S is the student's input side.

    images (n, 3, S, S) uint8; padding (n, S, S) uint8, 1 where there is photo; image_embeddings (n, C, T/16, T/16)
    float16, the teacher's at its own side T; masks (n * K, S, S) uint8 and has_truth (n * K,) float32; points
    (n * K, 2) float32 px, where the teacher is asked for an object if there is no truth; seeds (n,) int64, of
    the prompts.
    """

    images: Tensor
    padding: Tensor
    image_embeddings: Tensor
    masks: Tensor
    has_truth: Tensor
    points: Tensor
    seeds: Tensor


class DistillDataset(Dataset[dict[str, Any]]):
    """Sample number -> a photo drawn evenly, as a pure function of (seed, number); `objects_per_photo` may be 0."""

    def __init__(
        self, records: Sequence[Record], cache: EmbeddingCache, image_size: int, objects_per_photo: int, seed: int
    ) -> None:
        self.records, self.cache = list(records), cache
        self.image_size, self.objects_per_photo, self.seed = image_size, objects_per_photo, seed

    def __len__(self) -> int:
        return 1 << 40  # a stream: the sampler decides where it ends

    def __getitem__(self, number: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, number])
        return self.of_record(self.records[int(rng.integers(len(self.records)))], rng)

    def of_record(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """Raises DataError, ImageError."""
        size = self.image_size
        data = record.photo_bytes()
        embedding = self.cache.embedding(hashlib.sha256(data).hexdigest(), record.where)
        photo = record.photo(data)
        resized = resize_longest_side(photo, size)
        height, width = resized.shape[:2]
        image = np.zeros((size, size, 3), np.uint8)
        inside = np.zeros((size, size), np.uint8)
        image[:height, :width], inside[:height, :width] = resized, 1
        masks = self._masks(record, (photo.shape[0], photo.shape[1]), (height, width), rng)
        points = rng.random((self.objects_per_photo, 2)) * (width - 1, height - 1)
        return {
            "image": image,
            "inside": inside,
            "embedding": embedding.astype(np.float16),
            "masks": masks,
            "has_truth": masks.any((1, 2)),
            "points": points.astype(np.float32),
            "seed": int(rng.integers(1 << 62)),
        }

    def _masks(
        self, record: Record, photo_size: tuple[int, int], shown: tuple[int, int], rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """Masks (K, S, S) of objects in random order, repeated where there are few; zeros where there are none.

        shown: (h, w) of the frame that the photo of `photo_size` fills.
        """
        masks = np.zeros((self.objects_per_photo, self.image_size, self.image_size), np.uint8)
        objects = record.objects() if self.objects_per_photo else []
        if objects:
            order = rng.permutation(len(objects))
            for i in range(self.objects_per_photo):
                mask = true_mask(record, objects[order[i % len(objects)]], photo_size)
                masks[i, : shown[0], : shown[1]] = _resized(mask, shown)
        return masks


def _resized(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask at (height, width): what covers at least half a pixel."""
    soft = cv2.resize(mask.astype(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(soft > 127)


def collate_distill(samples: list[dict[str, Any]]) -> DistillBatch:
    """Stack samples."""
    return DistillBatch(
        images=torch.from_numpy(np.stack([s["image"] for s in samples]).transpose(0, 3, 1, 2).copy()),
        padding=torch.from_numpy(np.stack([s["inside"] for s in samples])),
        image_embeddings=torch.from_numpy(np.stack([s["embedding"] for s in samples])),
        masks=torch.from_numpy(np.concatenate([s["masks"] for s in samples])),
        has_truth=torch.from_numpy(np.concatenate([s["has_truth"] for s in samples]).astype(np.float32)),
        points=torch.from_numpy(np.concatenate([s["points"] for s in samples])),
        seeds=torch.tensor([s["seed"] for s in samples], dtype=torch.int64),
    )
