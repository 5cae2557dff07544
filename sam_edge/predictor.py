"""`SamPredictor`: one photo, many prompts, with segment-anything's names, arguments and return values.

Works over any runtime. The photo is encoded once in `set_image`; each prediction then costs one decode.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sam_edge.contract import MASK_THRESHOLD, Embedding, Float32, PromptTensors, Runtime
from sam_edge.errors import ImageError, PromptError, check_shape
from sam_edge.image import Photo, Size, check_photo, normalise_and_pad, preprocess, resized_size
from sam_edge.masks import select_masks, upscale_logits, upscale_masks
from sam_edge.prompts import assemble_prompts, build_prompts
from sam_edge.transform import ResizeLongestSide, is_tensor, like, to_array

__all__ = ["SamPredictor"]

PROMPTS_PER_DECODE = 64  # bounds the decoder's memory whatever the caller's batch


class SamPredictor:
    """Masks for prompts on one photo.

    >>> predictor = SamPredictor(sam_edge.load("nano"))
    >>> predictor.set_image(photo)
    >>> masks, iou, low_res_masks = predictor.predict(np.array([[320, 240]]), np.array([1]))

    `timings_ms` holds the last photo's "preprocess" and "encode", and the last prediction's "decode" and "postprocess".
    """

    mask_threshold = MASK_THRESHOLD
    image_format = "RGB"

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.transform = ResizeLongestSide(runtime.spec.image_size)
        self.timings_ms: dict[str, float] = {}
        self.reset_image()

    @property
    def device(self) -> str:
        """Where the runtime computes: "cpu" unless the runtime says otherwise."""
        return str(getattr(self.runtime, "device", "cpu"))

    @property
    def is_image_set(self) -> bool:
        return self.features is not None

    def reset_image(self) -> None:
        """Forget the photo."""
        self.features: Embedding | None = None
        self.original_size: Size | None = None  # (H, W)
        self.input_size: Size | None = None  # (h, w)
        self.timings_ms.clear()

    def set_image(self, image: Photo, image_format: str = "RGB") -> None:
        """Encode a photo (H, W, 3) uint8, "RGB" or "BGR". Raises ImageError."""
        if image_format not in ("RGB", "BGR"):
            raise ImageError(f'image_format is {image_format!r}, expected "RGB" or "BGR".')
        check_photo(image)
        start = perf_counter()
        photo = image if image_format == self.image_format else np.ascontiguousarray(image[..., ::-1])
        tensor, input_size = preprocess(photo, self.runtime.spec)
        self._encode(tensor, (image.shape[0], image.shape[1]), input_size, start)

    def set_torch_image(self, transformed_image: Any, original_image_size: Size) -> None:
        """Encode an image (1, 3, h, w), tensor or array of 0 to 255, that `transform` resized. Raises ImageError."""
        start = perf_counter()
        if self.runtime.spec.photo_input:
            raise ImageError("this model's encoder takes whole photos, got a resized one. Use set_image(photo).")
        resized = to_array(transformed_image)
        height, width = (int(side) for side in original_image_size)
        input_size = resized_size((height, width), self.runtime.spec.image_size)
        hint = f"Resize the photo with predictor.transform first: its longest side is {self.runtime.spec.image_size}."
        check_shape("transformed_image", resized, (1, 3, *input_size), hint, ImageError)
        self._encode(normalise_and_pad(resized, self.runtime.spec), (height, width), input_size, start)

    def _encode(self, tensor: NDArray[Any], original_size: Size, input_size: Size, start: float) -> None:
        self.reset_image()
        ready = perf_counter()
        self.features = self.runtime.encode(tensor)
        self.original_size, self.input_size = original_size, input_size
        self.timings_ms.update(preprocess=1e3 * (ready - start), encode=1e3 * (perf_counter() - ready))

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[NDArray[Any], Float32, Float32]:
        """One prompt: (masks (C, H, W) bool, iou_predictions (C,), low_res_masks (C, S/4, S/4)), C 3 or 1.

        point_coords (N, 2) x, y and point_labels (N,), 1 foreground, 0 background; box (4,) xyxy; all in pixels of the
        photo; mask_input (1, S/4, S/4), low_res_masks of an earlier prediction. return_logits: masks as float32
        logits. Raises PromptError.
        """
        masks, iou_predictions, low_res_masks = self.predict_batch(
            _as_batch("point_coords", point_coords, 2),
            _as_batch("point_labels", point_labels, 1),
            _as_batch("box", box, 1),
            _as_batch("mask_input", mask_input, 3),
            multimask_output,
            return_logits,
        )
        return masks[0], iou_predictions[0], low_res_masks[0]

    def predict_batch(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        boxes: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[NDArray[Any], Float32, Float32]:
        """B prompts: (masks (B, C, H, W) bool, iou_predictions (B, C), low_res_masks (B, C, S/4, S/4)).

        point_coords (B, N, 2), point_labels (B, N), boxes (B, 4) xyxy, in pixels of the photo; mask_input (B or 1, 1,
        S/4, S/4). Raises PromptError.
        """
        _, original_size, _ = self._require_image()
        prompts = build_prompts(
            self.runtime.spec,
            original_size,
            point_coords=point_coords,
            point_labels=point_labels,
            boxes=boxes,
            mask_input=mask_input,
        )
        return self._predict(prompts, multimask_output, return_logits)

    def predict_torch(
        self,
        point_coords: Any,
        point_labels: Any,
        boxes: Any = None,
        mask_input: Any = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Any, Any, Any]:
        """As predict_batch, with points and boxes that `transform` already scaled; tensors for tensors.

        Arrays give arrays, so that code written for segment-anything runs without torch too.
        """
        self._require_image()
        given = {"point_coords": point_coords, "point_labels": point_labels, "boxes": boxes, "mask_input": mask_input}
        arrays = {name: to_array(value) for name, value in given.items() if value is not None}
        prompts = assemble_prompts(self.runtime.spec, **arrays)
        example = next((value for value in given.values() if is_tensor(value)), None)
        masks, iou_predictions, low_res_masks = self._predict(prompts, multimask_output, return_logits)
        return like(masks, example), like(iou_predictions, example), like(low_res_masks, example)

    def get_image_embedding(self) -> Float32:
        """(1, C, S/16, S/16) float32 of the photo. Raises PromptError before set_image."""
        return self._require_image()[0].image_embeddings

    def _require_image(self) -> tuple[Embedding, Size, Size]:
        if self.features is None or self.original_size is None or self.input_size is None:
            raise PromptError("no photo is set, expected one before a prediction. Call set_image(photo) first.")
        return self.features, self.original_size, self.input_size

    def _predict(
        self, prompts: PromptTensors, multimask_output: bool, return_logits: bool
    ) -> tuple[NDArray[Any], Float32, Float32]:
        embedding, original_size, input_size = self._require_image()
        start = perf_counter()
        chosen = [
            select_masks(self.runtime.decode(embedding, part), multimask_output)
            for part in _chunks(prompts, PROMPTS_PER_DECODE)
        ]
        low_res_masks = np.concatenate([low_res for low_res, _ in chosen])
        iou_predictions = np.concatenate([iou for _, iou in chosen])
        decoded = perf_counter()
        sizes = (self.runtime.spec.image_size, input_size, original_size)
        masks: NDArray[Any] = (
            upscale_logits(low_res_masks, *sizes)
            if return_logits
            else upscale_masks(low_res_masks, *sizes, threshold=self.mask_threshold)
        )
        self.timings_ms.update(decode=1e3 * (decoded - start), postprocess=1e3 * (perf_counter() - decoded))
        return masks, iou_predictions, low_res_masks


def _chunks(prompts: PromptTensors, size: int) -> list[PromptTensors]:
    """At most `size` prompts each, in order."""
    return [
        PromptTensors(
            prompts.point_coords[start : start + size],
            prompts.point_labels[start : start + size],
            prompts.mask_input[start : start + size],
            prompts.has_mask_input[start : start + size],
        )
        for start in range(0, len(prompts.point_coords), size)
    ]


def _as_batch(name: str, value: ArrayLike | None, ndim: int) -> ArrayLike | None:
    """One prompt's array as a batch of one; a box may come as (1, 4), as segment-anything takes it."""
    if value is None:
        return None
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise PromptError(f"{name} is not an array of numbers ({error}). Give rows of equal length.") from error
    if name == "box" and array.shape == (1, 4):
        return array
    if array.ndim != ndim:
        shapes = {"point_coords": "(N, 2)", "point_labels": "(N,)", "box": "(4,)", "mask_input": "(1, S/4, S/4)"}
        raise PromptError(
            f"{name} has shape {array.shape}, expected {shapes[name]} for one prompt. Use predict_batch for several."
        )
    return array[None]
