"""`SamAutomaticMaskGenerator`: all masks of a photo, with segment-anything's arguments, defaults and records.

A grid of points is decoded in batches; masks pass the model's own IoU, then stability at full size, then suppression of
doubles (SAM paper, appendix B). A mask that passed is run lengths from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sam_edge.boxes import box_xyxy_to_xywh, is_near_crop_edge, mask_to_box, non_maximum_suppression
from sam_edge.contract import (
    LABEL_FOREGROUND,
    MASK_THRESHOLD,
    SAM_PRED_IOU_THRESH,
    SAM_STABILITY_SCORE_THRESH,
    Float32,
    Runtime,
)
from sam_edge.crops import crop_boxes, point_grids
from sam_edge.errors import PromptError, check_shape
from sam_edge.image import Photo, Size, check_photo, preprocess
from sam_edge.masks import remove_small_regions, select_masks, stability_score
from sam_edge.prompts import build_prompts
from sam_edge.rle import Rle, mask_to_rle, rle_area, rle_to_coco, rle_to_mask
from sam_edge.windows import upscale_window

__all__ = ["SamAutomaticMaskGenerator"]

OutputMode: TypeAlias = Literal["binary_mask", "uncompressed_rle", "coco_rle"]
OUTPUTS: dict[str, Callable[[Rle], Any]] = {
    "binary_mask": rle_to_mask,
    "uncompressed_rle": lambda rle: rle,
    "coco_rle": rle_to_coco,
}


@dataclass(frozen=True)
class _Candidate:
    """A mask that passed; box, point and crop_box in pixels of the photo, boxes xyxy."""

    rle: Rle
    box: NDArray[np.int64]
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]
    crop_box: NDArray[np.int64]


@dataclass(frozen=True)
class _Crop:
    """A crop's box in the photo, xyxy, and sizes (height, width): as the model sees it, its own, the photo's."""

    box: NDArray[np.int64]
    input_size: Size
    size: Size
    image_size: Size


class SamAutomaticMaskGenerator:
    """All masks of a photo.

    points_per_side, or point_grids: one (n, 2) array of x, y in 0..1 for the photo and one for each layer of crops.
    pred_iou_thresh: masks at or below it are dropped; stability_score_thresh: below it; 0 switches either off. The
    defaults are segment-anything's; `runtime.spec` has the ones that suit the model.
    crop_n_layers: layers of 4, 16, ... crops, each encoded anew. min_mask_region_area: smaller holes and islands go.
    Raises PromptError for options that cannot be used.

    Memory beyond the photo: one decoded batch (points_per_batch x 4 low-resolution masks), one mask with its
    temporaries at the size of the crop (about 8 bytes a pixel), and the run lengths of the masks found. It
    does not grow with number of masks x photo, except for output_mode "binary_mask", whose result is that.

    `timings_ms` has the last photo's total per stage.
    """

    def __init__(
        self,
        model: Runtime,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = SAM_PRED_IOU_THRESH,
        stability_score_thresh: float = SAM_STABILITY_SCORE_THRESH,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[ArrayLike] | None = None,
        min_mask_region_area: int = 0,
        output_mode: OutputMode = "binary_mask",
    ) -> None:
        if output_mode not in OUTPUTS:
            raise PromptError(f"output_mode is {output_mode!r}, expected one of {', '.join(OUTPUTS)}.")
        if points_per_batch < 1 or crop_n_layers < 0:
            raise PromptError(
                f"points_per_batch is {points_per_batch} and crop_n_layers {crop_n_layers}, expected at least 1 and 0."
            )
        self.runtime = model
        self.point_grids = _read_grids(points_per_side, point_grids, crop_n_layers, crop_n_points_downscale_factor)
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode
        self.timings_ms: dict[str, float] = {}

    def generate(self, image: Photo, progress: Callable[[int, int], None] | None = None) -> list[dict[str, Any]]:
        """Records of all masks of a photo (H, W, 3) uint8 RGB, in the order of suppression.

        Each: segmentation ((H, W) bool or run lengths), area, bbox (xywh), predicted_iou, point_coords [[x, y]],
        stability_score, crop_box (xywh). `progress(done, total)` is called with points after every decoded batch.
        Raises ImageError.
        """
        check_photo(image)
        self.timings_ms = dict.fromkeys(("preprocess", "encode", "decode", "postprocess"), 0.0)
        boxes, layers = crop_boxes((image.shape[0], image.shape[1]), self.crop_n_layers, self.crop_overlap_ratio)
        # A photo of a few pixels has crops without any; the original stops with an error there.
        crops = [
            (box, self.point_grids[layer])
            for box, layer in zip(boxes, layers, strict=True)
            if (box[2:] > box[:2]).all()
        ]
        total, done = sum(len(grid) for _, grid in crops), 0
        candidates: list[_Candidate] = []
        for crop_box, grid in crops:
            in_crop: list[_Candidate] = []
            for found, points in self._search_crop(image, crop_box, grid):
                in_crop += found
                done += points
                if progress is not None:
                    progress(done, total)
            candidates += _suppress(in_crop, [found.predicted_iou for found in in_crop], self.box_nms_thresh)
        start = perf_counter()
        if len(crops) > 1:  # a mask of a smaller crop was seen at a higher resolution
            areas = [np.prod(found.crop_box[2:] - found.crop_box[:2]) for found in candidates]
            candidates = _suppress(candidates, [1 / area for area in areas], self.crop_nms_thresh)
        if self.min_mask_region_area > 0:
            candidates = self._clean(candidates)
        records = [self._record(found) for found in candidates]
        self._count("postprocess", start)
        return records

    def _search_crop(
        self, image: Photo, crop_box: NDArray[np.int64], grid: NDArray[np.float64]
    ) -> Iterator[tuple[list[_Candidate], int]]:
        """For each batch of the grid's points: the candidates, and how many points were asked."""
        spec = self.runtime.spec
        x0, y0, x1, y1 = crop_box.tolist()
        start = perf_counter()
        tensor, input_size = preprocess(np.ascontiguousarray(image[y0:y1, x0:x1]), spec)
        start = self._count("preprocess", start)
        embedding = self.runtime.encode(tensor)
        self._count("encode", start)
        crop = _Crop(crop_box, input_size, (y1 - y0, x1 - x0), (image.shape[0], image.shape[1]))
        points = grid * (x1 - x0, y1 - y0)
        for first in range(0, len(points), self.points_per_batch):
            start = perf_counter()
            batch = points[first : first + self.points_per_batch, None]  # (B, 1, 2): each point is a prompt
            labels = np.full(batch.shape[:2], LABEL_FOREGROUND)
            prompts = build_prompts(spec, crop.size, point_coords=batch, point_labels=labels)
            low_res_masks, iou_predictions = select_masks(self.runtime.decode(embedding, prompts), multimask=True)
            start = self._count("decode", start)
            # Before anything is upscaled: most masks end here.
            trusted = iou_predictions > (self.pred_iou_thresh if self.pred_iou_thresh > 0 else -np.inf)
            found: list[_Candidate] = []
            for prompt, mask in zip(*trusted.nonzero(), strict=True):
                candidate = self._examine(
                    low_res_masks[prompt, mask], float(iou_predictions[prompt, mask]), batch[prompt, 0], crop
                )
                if candidate is not None:
                    found.append(candidate)
            self._count("postprocess", start)
            yield found, len(batch)

    def _examine(
        self, low_res_mask: Float32, predicted_iou: float, point: NDArray[np.float64], crop: _Crop
    ) -> _Candidate | None:
        """One mask (S/4, S/4) at full size: None where it is not stable or cut off by the crop."""
        lowest = MASK_THRESHOLD - abs(self.stability_score_offset)
        window = upscale_window(low_res_mask, lowest, crop.input_size, crop.size)
        stability = float(stability_score(window.logits, MASK_THRESHOLD, self.stability_score_offset))
        if self.stability_score_thresh > 0 and not stability >= self.stability_score_thresh:  # NaN does not pass
            return None
        mask = window.logits > MASK_THRESHOLD
        left, top = crop.box[:2].tolist()
        # The box of an empty mask is zeros in the crop, wherever the window is.
        box = mask_to_box(mask) + (np.tile((window.left, window.top), 2) if mask.any() else 0)
        height, width = crop.image_size
        if crop.size != crop.image_size and is_near_crop_edge(box[None], crop.box, (0, 0, width, height))[0]:
            return None
        rle = mask_to_rle(mask, crop.image_size, (window.top + top, window.left + left))
        x, y = np.add(point, (left, top)).tolist()
        return _Candidate(rle, box + np.tile((left, top), 2), predicted_iou, stability, (x, y), crop.box)

    def _clean(self, candidates: list[_Candidate]) -> list[_Candidate]:
        """Without small holes and islands. What this made alike is suppressed again, unchanged masks first."""
        cleaned: list[_Candidate] = []
        scores: list[float] = []
        for found in candidates:
            mask, had_holes = remove_small_regions(rle_to_mask(found.rle), self.min_mask_region_area, "holes")
            mask, had_islands = remove_small_regions(mask, self.min_mask_region_area, "islands")
            changed = had_holes or had_islands
            cleaned.append(replace(found, rle=mask_to_rle(mask), box=mask_to_box(mask)) if changed else found)
            scores.append(0.0 if changed else 1.0)
        return _suppress(cleaned, scores, max(self.box_nms_thresh, self.crop_nms_thresh))

    def _record(self, found: _Candidate) -> dict[str, Any]:
        return {
            "segmentation": OUTPUTS[self.output_mode](found.rle),
            "area": rle_area(found.rle),
            "bbox": box_xyxy_to_xywh(found.box).tolist(),
            "predicted_iou": found.predicted_iou,
            "point_coords": [list(found.point)],
            "stability_score": found.stability_score,
            "crop_box": box_xyxy_to_xywh(found.crop_box).tolist(),
        }

    def _count(self, stage: str, start: float) -> float:
        """Add the time since `start` to a stage; now."""
        now = perf_counter()
        self.timings_ms[stage] += 1e3 * (now - start)
        return now


def _suppress(candidates: list[_Candidate], scores: list[float], threshold: float) -> list[_Candidate]:
    """Non-maximum suppression by box, best score first."""
    boxes = np.array([found.box for found in candidates], np.int64).reshape(-1, 4)
    return [candidates[index] for index in non_maximum_suppression(boxes, scores, threshold)]


def _read_grids(
    points_per_side: int | None, grids: Sequence[ArrayLike] | None, n_layers: int, downscale_factor: int
) -> list[NDArray[np.float64]]:
    """One grid (n, 2) for the photo and each layer of crops. Raises PromptError."""
    if (points_per_side is None) == (grids is None):
        raise PromptError("give either points_per_side or point_grids, and None for the other.")
    if points_per_side is not None:
        if downscale_factor < 1 or int(points_per_side / downscale_factor**n_layers) < 1:
            raise PromptError(
                f"points_per_side is {points_per_side} and is divided {n_layers} times by "
                f"crop_n_points_downscale_factor {downscale_factor}, expected at least 1 point at last. Use more."
            )
        return point_grids(points_per_side, n_layers, downscale_factor)
    read = [np.asarray(grid, np.float64) for grid in grids or ()]
    if len(read) != n_layers + 1:
        raise PromptError(
            f"point_grids has {len(read)} grids, expected {n_layers + 1}: the photo's and one a crop layer."
        )
    for grid in read:
        check_shape("point_grids", grid, ("N", 2), "Give x, y from 0 to 1.")
        if not ((grid >= 0) & (grid <= 1)).all():
            raise PromptError("point_grids has values outside 0 to 1. Give x, y as parts of the width and height.")
    return read
