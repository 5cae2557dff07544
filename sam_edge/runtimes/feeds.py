"""What a runtime feeds its graphs: the contract's arrays by tensor name, once every shape and dtype fits.

Broadcasting would take many wrong shapes in silence, and a runtime's own message does not say what to do.
"""

from __future__ import annotations

import numpy as np

from sam_edge.artifact import Artifact
from sam_edge.contract import PROMPT_INPUTS, Embedding, Float32, ModelSpec, PromptTensors
from sam_edge.errors import ArtifactError, ImageError, PromptError, SamEdgeError, check_shape
from sam_edge.manifest import Tensor, contract_tensors

__all__ = ["check_target", "decoder_feeds", "encoder_feeds"]


def check_target(artifact: Artifact, target: str, computed: tuple[str, ...] = ("float32", "int8")) -> None:
    """Raises ArtifactError for a folder that is for another runtime, or computes in what that runtime is not set to."""
    got = artifact.manifest.target, artifact.manifest.precision
    if got[0] != target or got[1] not in computed:
        raise ArtifactError(
            f"{artifact.directory} is for {got[0]} in {got[1]}, expected {target} in {' or '.join(computed)}. "
            f"Choose the runtime that fits, or export the model for {target}."
        )


def encoder_feeds(spec: ModelSpec, image: Float32) -> dict[str, Float32]:
    """image (1, 3, S, S) float32. Raises ImageError."""
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


def _checked(
    tensors: tuple[Tensor, ...], arrays: list[Float32], hint: str, error: type[SamEdgeError]
) -> dict[str, Float32]:
    """Each array under its tensor's name; sizes with the same name must be equal."""
    sizes: dict[str, int] = {}
    feeds = {}
    for tensor, array in zip(tensors, arrays, strict=True):
        shape = tuple(sizes.get(size, size) if isinstance(size, str) else size for size in tensor.shape)
        check_shape(tensor.name, array, shape, hint, error)
        sizes |= {size: got for size, got in zip(tensor.shape, array.shape, strict=True) if isinstance(size, str)}
        if array.dtype != np.float32:
            raise error(f"{tensor.name} has dtype {array.dtype}, expected {tensor.dtype}. {hint}")
        feeds[tensor.name] = np.ascontiguousarray(array)
    return feeds
