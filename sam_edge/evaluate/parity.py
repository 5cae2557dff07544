"""Are an artifact's masks the reference's masks? (evaluation protocol, section 2)

Both go their own whole way, from the photo's bytes to masks at the photo's size; then mask is compared with mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from sam_edge.contract import HIGH_RES_FEATURES, IMAGE_EMBEDDINGS, PREDICTION_OUTPUTS, Float32, Runtime
from sam_edge.evaluate import simulate
from sam_edge.evaluate.dataset import Record
from sam_edge.evaluate.protocol import Evaluation, Score, evaluate
from sam_edge.image import preprocess
from sam_edge.prompts import build_prompts

__all__ = ["PARITY_KINDS", "KindParity", "OutputError", "compare_evaluations", "measure", "output_errors", "rle_iou"]

PARITY_KINDS = ("box", "click", "click3", "mask")
RESAMPLES = 1000


@dataclass(frozen=True)
class KindParity:
    """One prompt kind: mask IoU of the two over all objects (0 to 1), and what each scores against ground truth.

    `retention` is the artifact's mIoU divided by the reference's, `retention_high` the upper end of its 95 % interval
    over objects (bootstrap): with few objects the quotient alone says little.
    """

    prompts: int
    mask_iou_mean: float
    mask_iou_p5: float
    mask_iou_min: float
    share_below_90: float
    miou: float
    reference_miou: float
    retention: float
    retention_high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {name: round(value, 6) for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class OutputError:
    """Largest absolute difference of one output tensor, and the same in standard deviations of the reference's."""

    max_abs: float
    relative: float


def measure(
    runtime: Runtime, records: Sequence[Record], on_photo: Callable[[Evaluation], None] | None = None
) -> Evaluation:
    """Evaluate with every mask kept, for `compare_evaluations`. Raises DataError, ImageError."""
    return evaluate(
        runtime, records, kinds=PARITY_KINDS, free_baselines=False, keep_masks=PARITY_KINDS, on_photo=on_photo
    )


def compare_evaluations(reference: Evaluation, tested: Evaluation) -> dict[str, KindParity]:
    """Prompt kind -> parity of two `measure`d evaluations of the same records."""
    return {kind: _kind(reference.of(kind), tested.of(kind)) for kind in PARITY_KINDS if reference.of(kind)}


def _kind(reference: Sequence[Score], tested: Sequence[Score]) -> KindParity:
    ious = []
    for expected, got in zip(reference, tested, strict=True):
        assert (expected.photo, expected.object_id) == (got.photo, got.object_id)
        ious.append(rle_iou(expected.rle, got.rle))
    values = np.array(ious)
    scores = np.array([[score.iou for score in side] for side in (reference, tested)])
    theirs, ours = (float(mean) for mean in scores.mean(1))
    return KindParity(
        prompts=len(values),
        mask_iou_mean=float(values.mean()),
        mask_iou_p5=float(np.percentile(values, 5)),
        mask_iou_min=float(values.min()),
        share_below_90=float((values < 0.9).mean()),
        miou=ours,
        reference_miou=theirs,
        retention=ours / theirs if theirs else float(ours == theirs),
        retention_high=_upper_quotient(scores[1], scores[0]),
    )


def _upper_quotient(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float | None:
    """The upper end of the 95 % bootstrap interval of mean(ours) / mean(theirs) over pairs; None where it has none."""
    drawn = np.random.default_rng(0).integers(0, len(ours), (RESAMPLES, len(ours)))
    below = theirs[drawn].mean(1)
    return float(np.percentile(ours[drawn].mean(1) / below, 97.5)) if below.all() else None


def rle_iou(first: Any, second: Any) -> float:
    """Of two COCO run lengths; 1 where both are empty."""
    if not coco_mask.area(first) and not coco_mask.area(second):
        return 1.0
    return float(coco_mask.iou([first], [second], [0])[0, 0])


def output_errors(reference: Runtime, tested: Runtime, records: Sequence[Record]) -> dict[str, OutputError]:
    """Output tensor -> its largest error over the photos: the encoder's, then the decoder's for every object's box.

    Each decoder gets its own encoder's embedding, as in use. Raises DataError, ImageError.
    """
    largest: dict[str, OutputError] = {}
    for record in records:
        objects = record.objects()
        if not objects:
            continue
        photo = record.photo()
        size = photo.shape[0], photo.shape[1]
        boxes = np.stack([simulate.tight_box(found.mask()) for found in objects])
        outputs = [_outputs(runtime, photo, size, boxes) for runtime in (reference, tested)]
        for name, expected in outputs[0].items():
            difference = float(np.abs(outputs[1][name] - expected).max())
            error = OutputError(difference, difference / float(expected.std() + 1e-30))
            largest[name] = max(largest.get(name, error), error, key=_nan_last)
    return largest


def _nan_last(error: OutputError) -> tuple[bool, float]:
    """NaN is larger than any number, and stays the largest whatever comes after it."""
    return math.isnan(error.max_abs), error.max_abs


def _outputs(runtime: Runtime, photo: Any, size: tuple[int, int], boxes: Any) -> dict[str, Float32]:
    embedding = runtime.encode(preprocess(photo, runtime.spec)[0])
    prediction = runtime.decode(embedding, build_prompts(runtime.spec, size, boxes=boxes))
    names = (IMAGE_EMBEDDINGS, *HIGH_RES_FEATURES[: len(embedding.high_res_features)], *PREDICTION_OUTPUTS)
    tensors = (embedding.image_embeddings, *embedding.high_res_features)
    return dict(zip(names, (*tensors, prediction.low_res_masks, prediction.iou_predictions), strict=True))
