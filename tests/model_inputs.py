"""What a model is given in tests, and how close two runtimes of one model must come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sam_edge.contract import (
    LABEL_BACKGROUND,
    LABEL_BOX_BOTTOM_RIGHT,
    LABEL_BOX_TOP_LEFT,
    LABEL_EMPTY,
    LABEL_FOREGROUND,
    LABEL_PADDING,
    Float32,
    ModelSpec,
    PromptTensors,
    Runtime,
)

__all__ = ["assert_close", "assert_same", "random_clicks", "random_image", "random_prompts"]


def random_image(spec: ModelSpec) -> Float32:
    """(1, 3, S, S), the same every time."""
    return np.random.default_rng(0).standard_normal((1, 3, spec.image_size, spec.image_size)).astype(np.float32)


def random_clicks(spec: ModelSpec, batch: int, slots: int) -> PromptTensors:
    """Foreground points, and a mask input on every second prompt."""
    rng = np.random.default_rng(batch * 100 + slots)
    coords = rng.uniform(0, spec.image_size, (batch, slots, 2)).astype(np.float32)
    mask_input = rng.standard_normal((batch, 1, spec.mask_size, spec.mask_size)).astype(np.float32)
    labels = np.full((batch, slots), LABEL_FOREGROUND, np.float32)
    return PromptTensors(coords, labels, mask_input, (np.arange(batch) % 2).astype(np.float32))


def random_prompts(spec: ModelSpec, batch: int, slots: int) -> PromptTensors:
    """Every kind of label, and a mask input on every second prompt."""
    rng = np.random.default_rng(batch * 100 + slots)
    kinds = [LABEL_FOREGROUND, LABEL_BACKGROUND, LABEL_PADDING, LABEL_EMPTY]
    labels = rng.choice(kinds, (batch, slots)).astype(np.float32)
    coords = rng.uniform(0, spec.image_size, (batch, slots, 2)).astype(np.float32)
    if slots >= 2:
        labels[0, :2] = LABEL_BOX_TOP_LEFT, LABEL_BOX_BOTTOM_RIGHT
        coords[0, :2] = np.sort(coords[0, :2], axis=0)
    mask_input = 5 * rng.standard_normal((batch, 1, spec.mask_size, spec.mask_size))
    return PromptTensors(coords, labels, mask_input.astype(np.float32), (np.arange(batch) % 2).astype(np.float32))


def assert_close(got: Float32, expected: Float32, tolerance: float) -> None:
    """tolerance: of the expected tensor's standard deviation."""
    scale = float(expected.std())
    assert scale > 1e-3  # tensors that say nothing would agree too
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)


def assert_same(
    got: Runtime, expected: Runtime, image: Float32, sizes: Sequence[tuple[int, int]], tolerance: float
) -> None:
    """Each from the image on, for every (prompts, slots) of `sizes`."""
    ours, theirs = got.encode(image), expected.encode(image)
    assert_close(ours.image_embeddings, theirs.image_embeddings, tolerance)
    for feature, wanted in zip(ours.high_res_features, theirs.high_res_features, strict=True):
        assert_close(feature, wanted, tolerance)
    for batch, slots in sizes:
        prompts = random_prompts(expected.spec, batch, slots)
        prediction, right = got.decode(ours, prompts), expected.decode(theirs, prompts)
        assert_close(prediction.low_res_masks, right.low_res_masks, tolerance)
        assert_close(prediction.iou_predictions, right.iou_predictions, tolerance)
