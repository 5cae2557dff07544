"""What a runtime feeds its graphs: the contract's arrays by tensor name, once every shape and dtype fits.

Broadcasting would take many wrong shapes in silence, and a runtime's own message does not say what to do. A batch of
prompts goes through the decoder in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sam_edge.artifact import Artifact
from sam_edge.contract import PROMPT_INPUTS, Embedding, Float32, ModelSpec, Prediction, PromptTensors
from sam_edge.errors import ArtifactError, ImageError, PromptError, SamEdgeError, check_shape
from sam_edge.manifest import Tensor, contract_tensors

__all__ = ["PROMPTS_A_RUN", "check_target", "decode_in_parts", "decoder_feeds", "encoder_feeds"]

# Parts of this size keep the decoder's tensors in the cache: in ONNX Runtime with nano 8.6 ms of one core a prompt,
# against 11.2 at 64 together, and a sixteenth of the memory. In OpenVINO a prompt costs the same either way.
PROMPTS_A_RUN = 4


def check_target(artifact: Artifact, target: str, computed: tuple[str, ...] = ("float32", "int8")) -> None:
    """Raises ArtifactError for a folder that is for another runtime, or computes in what that runtime is not set to."""
    got = artifact.manifest.target, artifact.manifest.precision
    if got[0] != target or got[1] not in computed:
        raise ArtifactError(
            f"{artifact.directory} is for {got[0]} in {got[1]}, expected {target} in {' or '.join(computed)}. "
            f"Choose the runtime that fits, or export the model for {target}."
        )


def encoder_feeds(spec: ModelSpec, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """image (1, 3, S, S) float32, or with the spec's `photo_input` a photo (H, W, 3) uint8. Raises ImageError."""
    inputs, _ = contract_tensors(spec)["encoder"]
    return _checked(inputs, [image], "Use image.preprocess with this model's spec.", ImageError)


def decoder_feeds(spec: ModelSpec, embedding: Embedding, prompts: PromptTensors) -> dict[str, Float32]:
    """The embedding's tensors, then the prompts', in the order in which graphs declare them. Raises PromptError."""
    inputs, _ = contract_tensors(spec)["decoder"]
    features = [embedding.image_embeddings, *embedding.high_res_features]
    hint, expected = f"Encode with {spec.name} itself.", len(inputs) - len(PROMPT_INPUTS)
    if len(features) != expected:
        raise PromptError(f"the embedding has {len(features)} tensors, expected {expected}. {hint}")
    feeds = _checked(inputs[:expected], features, hint, PromptError)
    rows = [prompts.point_coords, prompts.point_labels, prompts.mask_input, prompts.has_mask_input]
    return feeds | _checked(inputs[expected:], rows, "Use prompts.build_prompts with this model's spec.", PromptError)


class Map(Protocol):
    """`map`, or that of a pool."""

    def __call__(
        self, function: Callable[[int], Sequence[Float32]], starts: Iterable[int], /
    ) -> Iterable[Sequence[Float32]]: ...


def decode_in_parts(
    feeds: dict[str, Float32], run: Callable[[dict[str, Float32]], Sequence[Float32]], map_: Map = map
) -> Prediction:
    """`run`, from the decoder's feeds to its two outputs, on PROMPTS_A_RUN prompts at a time.

    One run at least: also without prompts, the outputs have the shapes that the decoder gives them.
    """

    def part(start: int) -> Sequence[Float32]:
        return run(feeds | {name: feeds[name][start : start + PROMPTS_A_RUN] for name in PROMPT_INPUTS})

    parts = map_(part, range(0, max(len(feeds["point_labels"]), 1), PROMPTS_A_RUN))
    low_res_masks, iou_predictions = (np.concatenate(outputs) for outputs in zip(*parts, strict=True))
    return Prediction(low_res_masks, iou_predictions)


def _checked(
    tensors: tuple[Tensor, ...], arrays: list[NDArray[Any]], hint: str, error: type[SamEdgeError]
) -> dict[str, NDArray[Any]]:
    """Each array under its tensor's name; sizes with the same name must be equal."""
    sizes: dict[str, int] = {}
    feeds = {}
    for tensor, array in zip(tensors, arrays, strict=True):
        shape = tuple(sizes.get(size, size) if isinstance(size, str) else size for size in tensor.shape)
        check_shape(tensor.name, array, shape, hint, error)
        sizes |= {size: got for size, got in zip(tensor.shape, array.shape, strict=True) if isinstance(size, str)}
        if array.dtype != np.dtype(tensor.dtype):
            raise error(f"{tensor.name} has dtype {array.dtype}, expected {tensor.dtype}. {hint}")
        feeds[tensor.name] = np.ascontiguousarray(array)
    return feeds
