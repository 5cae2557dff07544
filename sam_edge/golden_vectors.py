"""golden.npz: photos, prompts and what the float32 reference makes of them, carried along with an artifact.

They tell on any machine, without torch, whether a runtime still computes the same model. Embeddings and logits are
sampled (all of them would be larger than the model), masks are whole.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_edge.contract import MASK_THRESHOLD, Embedding, Float32, ModelSpec, PromptTensors, Runtime
from sam_edge.errors import ArtifactError
from sam_edge.image import Photo, preprocess
from sam_edge.manifest import EMBEDDING_TOLERANCE
from sam_edge.masks import upscale_logits

__all__ = [
    "GoldenDifference",
    "GoldenPhoto",
    "check_embeddings",
    "compare",
    "embedding_difference",
    "nan_as_null",
    "pack",
    "record",
    "unpack",
]

NUM_VALUES = 512  # of each encoder output
VALUE_STEP = 1_000_003  # prime, so that the samples wander over all channels and rows
LOGIT_STEP = 4  # every fourth row and column
MAX_UNPACKED_BYTES = 1 << 26
MIN_CHANGE = 0.05  # how far, in the same unit, two photos' embeddings must lie apart at least


@dataclass(frozen=True)
class GoldenPhoto:
    """`image` (H, W, 3); `prompts` of the contract; `embedding_values`: NUM_VALUES of each encoder output;
    `logits` (B, 4, S/16, S/16), sampled; `iou_predictions` (B, 4); `masks` (B, H, W) bool, the single masks."""

    image: Photo
    prompts: PromptTensors
    embedding_values: tuple[Float32, ...]
    logits: Float32
    iou_predictions: Float32
    masks: NDArray[np.bool_]


@dataclass(frozen=True)
class GoldenDifference:
    """Largest absolute differences to the stored values, and the smallest IoU with a stored mask."""

    embedding: float
    logits: float
    iou_predictions: float
    mask_iou: float


def record(runtime: Runtime, image: Photo, prompts: PromptTensors) -> GoldenPhoto:
    """What `runtime` makes of one photo (H, W, 3) and its prompts, in pixels of the resized image."""
    tensor, input_size = preprocess(image, runtime.spec)
    embedding = runtime.encode(tensor)
    prediction = runtime.decode(embedding, prompts)
    single = prediction.low_res_masks[:, 0]
    masks = upscale_logits(single, runtime.spec.image_size, input_size, image.shape[:2]) > MASK_THRESHOLD
    logits = np.ascontiguousarray(prediction.low_res_masks[:, :, ::LOGIT_STEP, ::LOGIT_STEP])
    return GoldenPhoto(image, prompts, _sample(embedding), logits, prediction.iou_predictions, masks)


def compare(runtime: Runtime, golden: tuple[GoldenPhoto, ...]) -> GoldenDifference:
    """Run every golden photo through `runtime`. NaN and infinite results give NaN differences."""
    embedding, logits, iou, mask_iou = [], [], [], []
    for expected in golden:
        got = record(runtime, expected.image, expected.prompts)
        pairs = zip(got.embedding_values, expected.embedding_values, strict=True)
        embedding.append(max(_largest(a, b) for a, b in pairs))
        logits.append(_largest(got.logits, expected.logits))
        iou.append(_largest(got.iou_predictions, expected.iou_predictions))
        both = (got.masks & expected.masks).sum((1, 2))
        either = (got.masks | expected.masks).sum((1, 2))
        mask_iou.append(np.where(either == 0, 1.0, both / np.maximum(either, 1)).min())
    worst = [float(np.max(x)) for x in (embedding, logits, iou)]
    return GoldenDifference(worst[0], worst[1], worst[2], float(np.min(mask_iou)))


def embedding_difference(runtime: Runtime, golden: tuple[GoldenPhoto, ...]) -> float:
    """The largest difference of an encoder output to its stored values, in standard deviations of those; or NaN."""
    return max((difference for _, difference, _ in _differences(runtime, golden)), key=lambda x: (x != x, x))


def check_embeddings(runtime: Runtime, golden: tuple[GoldenPhoto, ...], tolerance: float = EMBEDDING_TOLERANCE) -> None:
    """The canary: embeddings must be the stored ones, and must differ between photos. Raises ArtifactError.

    tolerance: in standard deviations of the stored values. Constant or NaN embeddings on a device that computes in half
    precision are the commonest silent failure of exported models. Costs one encode a photo.
    """
    seen = []
    for index, difference, values in _differences(runtime, golden):
        if not difference <= tolerance:  # this way round, NaN fails too
            raise ArtifactError(
                f"{runtime.spec.name} computes other embeddings here than where it was exported: on golden photo "
                f"{index} they differ by {difference:.2g} standard deviations, expected at most {tolerance:.2g}. "
                "Update the runtime's library, or use another runtime."
            )
        seen.append(values)
    changes = [_largest(a, b) / float(a.std() + 1e-30) for a, b in pairwise(seen)]
    if not changes or not min(changes) >= MIN_CHANGE:
        raise ArtifactError(
            f"{runtime.spec.name} gives the same embedding for different photos: it does not see them. Export it again."
        )


def _differences(runtime: Runtime, golden: tuple[GoldenPhoto, ...]) -> Iterator[tuple[int, float, Float32]]:
    """(photo, largest difference of any encoder output, values of the first output) for each golden photo."""
    for index, expected in enumerate(golden):
        got = _sample(runtime.encode(preprocess(expected.image, runtime.spec)[0]))
        pairs = zip(got, expected.embedding_values, strict=True)
        relative = [_largest(ours, stored) / float(stored.std() + 1e-30) for ours, stored in pairs]
        yield index, float(np.max(relative)), got[0]


def nan_as_null(figures: Any) -> Any:
    """Plain data with None for NaN and infinite figures, which JSON has not: what a failed model measures."""
    if isinstance(figures, dict):
        return {name: nan_as_null(value) for name, value in figures.items()}
    if isinstance(figures, list):
        return [nan_as_null(value) for value in figures]
    return None if isinstance(figures, float) and not math.isfinite(figures) else figures


def pack(golden: tuple[GoldenPhoto, ...]) -> bytes:
    """The bytes of golden.npz; the same values always give the same bytes."""
    fields: dict[str, NDArray[Any]] = {}
    for index, photo in enumerate(golden):
        fields |= {
            f"{index}/image": photo.image,
            f"{index}/point_coords": photo.prompts.point_coords,
            f"{index}/point_labels": photo.prompts.point_labels,
            f"{index}/mask_input": photo.prompts.mask_input,
            f"{index}/has_mask_input": photo.prompts.has_mask_input,
            f"{index}/logits": photo.logits,
            f"{index}/iou_predictions": photo.iou_predictions,
            f"{index}/masks": np.packbits(photo.masks, axis=-1),
        }
        fields |= {f"{index}/embedding_{i}": values for i, values in enumerate(photo.embedding_values)}
    file = io.BytesIO()
    np.savez_compressed(file, **fields)  # type: ignore[arg-type]
    return file.getvalue()


def unpack(data: bytes, spec: ModelSpec) -> tuple[GoldenPhoto, ...]:
    """Read the bytes of golden.npz. Raises ArtifactError."""
    try:
        size = sum(info.file_size for info in zipfile.ZipFile(io.BytesIO(data)).infolist())
        if size > MAX_UNPACKED_BYTES:
            raise ArtifactError(
                f"golden.npz unpacks to {size} bytes, expected at most {MAX_UNPACKED_BYTES}. Export again."
            )
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            fields = {name: file[name] for name in file.files}
        count = 1 + max(int(name.split("/")[0]) for name in fields)
        return tuple(_unpack_photo(fields, index, 1 + len(spec.high_res_channels)) for index in range(count))
    except (ValueError, KeyError, IndexError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ArtifactError(f"golden.npz cannot be read ({error}). Export or download the folder again.") from error


def _unpack_photo(fields: dict[str, NDArray[Any]], index: int, num_embeddings: int) -> GoldenPhoto:
    image = fields[f"{index}/image"]
    masks = np.unpackbits(fields[f"{index}/masks"], axis=-1)[..., : image.shape[1]].astype(bool)
    prompts = ("point_coords", "point_labels", "mask_input", "has_mask_input")
    return GoldenPhoto(
        image=image,
        prompts=PromptTensors(*(fields[f"{index}/{name}"] for name in prompts)),
        embedding_values=tuple(fields[f"{index}/embedding_{i}"] for i in range(num_embeddings)),
        logits=fields[f"{index}/logits"],
        iou_predictions=fields[f"{index}/iou_predictions"],
        masks=masks,
    )


def _sample(embedding: Embedding) -> tuple[Float32, ...]:
    outputs = (embedding.image_embeddings, *embedding.high_res_features)
    return tuple(x.reshape(-1)[np.arange(NUM_VALUES) * VALUE_STEP % x.size] for x in outputs)


def _largest(got: Float32, expected: Float32) -> float:
    return float(np.abs(got - expected).max())
