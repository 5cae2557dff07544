"""The evaluation loop: every object of every photo under every prompt kind (evaluation protocol, section 1).

A photo takes the path a user's takes: bytes, image.py, one encode, batched decodes, masks at photo size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from sam_edge.contract import MASK_THRESHOLD, Float32, Prediction, Runtime
from sam_edge.evaluate import baselines, simulate
from sam_edge.evaluate.dataset import Object, Record
from sam_edge.evaluate.metrics import boundary_iou, mask_iou, size_class
from sam_edge.evaluate.truth import true_mask
from sam_edge.image import preprocess
from sam_edge.masks import upscale_logits, upscale_masks
from sam_edge.prompts import build_prompts
from sam_edge.second_look import SecondLook

__all__ = [
    "CLICK_ALTERNATIVES",
    "DEFAULT_KINDS",
    "KINDS",
    "NOC_LIMIT",
    "NOC_TARGETS",
    "PROTOCOL_VERSION",
    "SECOND_LOOKS",
    "ClickCount",
    "Evaluation",
    "Score",
    "evaluate",
]

PROTOCOL_VERSION = 1
DEFAULT_KINDS = ("box", "box-jitter", "click", "click3", "mask")
KINDS = (*DEFAULT_KINDS, "noc")
SECOND_LOOKS = {"box": "box-refine", "click": "click-refine"}  # kinds that look twice, beside those that look once
CLICK_ALTERNATIVES = ("click-multi", "click-oracle")  # come with "click": best of three by predicted and by true IoU
NOC_TARGETS = (0.85, 0.90)
NOC_LIMIT = 20
PROMPTS_A_DECODE = 16

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Score:
    """One object under one prompt kind or baseline; `predicted_iou` and `rle` (COCO's) only where there is one."""

    kind: str
    photo: int
    object_id: int
    source: str
    size: str
    iou: float
    boundary_iou: float
    predicted_iou: float | None = None
    rle: dict[str, Any] | None = None


@dataclass(frozen=True)
class ClickCount:
    """Clicks that one object took to reach each IoU of NOC_TARGETS; what NOC_LIMIT clicks did not reach is absent."""

    photo: int
    object_id: int
    clicks_to: dict[float, int]


@dataclass
class Evaluation:
    """All scores of a run, in the order of photos and objects; `photos` and `objects` count what was evaluated."""

    scores: list[Score] = field(default_factory=list)
    click_counts: list[ClickCount] = field(default_factory=list)
    photos: int = 0
    objects: int = 0
    _totals: dict[str, tuple[int, float]] = field(default_factory=dict)

    def add(self, score: Score) -> None:
        """Append a score; the running means cost nothing, so a progress bar may ask for them after each photo."""
        self.scores.append(score)
        count, total = self._totals.get(score.kind, (0, 0.0))
        self._totals[score.kind] = count + 1, total + score.iou

    def of(self, kind: str) -> list[Score]:
        """The scores of one prompt kind or baseline."""
        return [score for score in self.scores if score.kind == kind]

    def mean_iou(self, kind: str) -> float:
        """Mean IoU over the objects of one prompt kind or baseline; NaN where there is none yet."""
        count, total = self._totals.get(kind, (0, 0.0))
        return total / count if count else float("nan")


def evaluate(
    runtime: Runtime,
    records: Iterable[Record],
    *,
    kinds: Collection[str] = DEFAULT_KINDS,
    free_baselines: bool = True,
    keep_masks: Collection[str] = (),
    on_photo: Callable[[Evaluation], None] | None = None,
) -> Evaluation:
    """Evaluate `runtime` on every object of at least 100 px in `records`.

    kinds: of KINDS and SECOND_LOOKS. keep_masks: kinds whose masks are kept in the scores, for pictures. on_photo is
    called after each photo. Raises DataError for masks that are empty or do not have the photo's size, ImageError for a
    damaged photo.
    """
    result = Evaluation()
    for index, record in enumerate(records):
        objects = record.objects()
        if objects:
            _Photo(runtime, record, objects, index, result, keep_masks).evaluate(frozenset(kinds), free_baselines)
        result.photos += 1
        result.objects += len(objects)
        if on_photo is not None:
            on_photo(result)
    return result


@dataclass(frozen=True)
class _Target:
    object: Object
    truth: Mask
    size: str


@dataclass
class _ClickState:
    """An object between two clicks: the single mask of the last ones and its low-res logits (1, S/4, S/4)."""

    target: _Target
    clicks: list[simulate.Click]
    mask: Mask
    low_res: Float32
    predicted_iou: float
    clicks_to: dict[float, int] = field(default_factory=dict)


class _Photo:
    """One photo, encoded once, and the scores of its objects."""

    def __init__(
        self,
        runtime: Runtime,
        record: Record,
        objects: list[Object],
        index: int,
        result: Evaluation,
        keep: Collection[str],
    ) -> None:
        self.runtime, self.record, self.index, self.result, self.keep = runtime, record, index, result, keep
        self.image = record.photo()
        self.size: tuple[int, int] = (self.image.shape[0], self.image.shape[1])
        self.targets = [
            _Target(found, true_mask(record, found, self.size), size_class(found.area, self.size)) for found in objects
        ]
        tensor, self.input_size = preprocess(self.image, runtime.spec)
        self.embedding = runtime.encode(tensor)

    def evaluate(self, kinds: frozenset[str], free_baselines: bool) -> None:
        """Add the scores of `kinds`, and of the baselines that fit them, to the result."""
        if kinds & {"box", SECOND_LOOKS["box"]}:
            boxes = [simulate.tight_box(t.truth) for t in self.targets]
            prediction = self._decode(boxes=boxes)
            if "box" in kinds:
                self._add_single_masks("box", prediction)
            if SECOND_LOOKS["box"] in kinds:
                self._second_looks("box", prediction, boxes=boxes)
        if "box-jitter" in kinds:
            jittered = [simulate.jittered_box(t.truth, t.object.id) for t in self.targets]
            self._add_single_masks("box-jitter", self._decode(boxes=jittered))
        if kinds & {"click", SECOND_LOOKS["click"], "click3", "noc"}:
            self._clicks(kinds)
        if "mask" in kinds:
            self._mask_prompts()
        if free_baselines:
            self._baselines(kinds)

    def _decode(
        self,
        *,
        boxes: Sequence[NDArray[np.float64]] | None = None,
        clicks: Sequence[Sequence[simulate.Click]] | None = None,
        mask_inputs: Sequence[Float32] | None = None,
    ) -> Prediction:
        """All prompts of one kind, a few at a time: B boxes (4,), B equal numbers of clicks, B logits (1, S/4, S/4)."""
        count = len(boxes if boxes is not None else clicks or ())
        parts = []
        for start in range(0, count, PROMPTS_A_DECODE):
            part = slice(start, start + PROMPTS_A_DECODE)
            points = None if clicks is None else np.array(clicks[part], np.float64)  # (b, N, 3)
            prompts = build_prompts(
                self.runtime.spec,
                self.size,
                point_coords=None if points is None else points[..., :2],
                point_labels=None if points is None else points[..., 2],
                boxes=None if boxes is None else np.stack(boxes[part]),
                mask_input=None if mask_inputs is None else np.stack(mask_inputs[part]),
            )
            parts.append(self.runtime.decode(self.embedding, prompts))
        return Prediction(
            np.concatenate([p.low_res_masks for p in parts]), np.concatenate([p.iou_predictions for p in parts])
        )

    def _mask(self, low_res: Float32) -> Mask:
        """(S/4, S/4) logits to the mask at photo size, (H, W) bool."""
        return upscale_masks(low_res, self.runtime.spec.image_size, self.input_size, self.size)

    def _add(self, kind: str, target: _Target, mask: Mask, predicted_iou: float | None = None) -> None:
        rle = coco_mask.encode(np.asfortranarray(mask, np.uint8)) if kind in self.keep else None
        iou, at_edge = mask_iou(mask, target.truth), boundary_iou(mask, target.truth)
        source = self.record.source
        object_id = target.object.id
        self.result.add(Score(kind, self.index, object_id, source, target.size, iou, at_edge, predicted_iou, rle))

    def _add_single_masks(self, kind: str, prediction: Prediction) -> None:
        for target, low_res, ious in zip(
            self.targets, prediction.low_res_masks, prediction.iou_predictions, strict=True
        ):
            self._add(kind, target, self._mask(low_res[0]), float(ious[0]))

    def _second_looks(
        self,
        kind: str,
        prediction: Prediction,
        *,
        boxes: Sequence[NDArray[np.float64]] | None = None,
        clicks: Sequence[Sequence[simulate.Click]] | None = None,
    ) -> None:
        """The single masks of `kind`, each after a second look at its object."""
        look = SecondLook(self.runtime, self.image)
        for i, target in enumerate(self.targets):
            low_res = prediction.low_res_masks[i, :1]
            first = upscale_logits(low_res[None], self.runtime.spec.image_size, self.input_size, self.size)[0, 0]
            points = None if clicks is None else np.array(clicks[i], np.float64)  # (N, 3)
            logits = look.refine(
                first,
                None if points is None else points[:, :2],
                None if points is None else points[:, 2],
                None if boxes is None else boxes[i],
            )
            self._add(SECOND_LOOKS[kind], target, logits > MASK_THRESHOLD, float(prediction.iou_predictions[i, 0]))

    def _mask_prompts(self) -> None:
        clicks = [[simulate.first_click(t.truth)] for t in self.targets]
        side = self.runtime.spec.mask_size
        logits = [simulate.mask_prompt(simulate.erode(t.truth), self.input_size, side) for t in self.targets]
        self._add_single_masks("mask", self._decode(clicks=clicks, mask_inputs=logits))

    def _clicks(self, kinds: frozenset[str]) -> None:
        """The kinds that start with one click: `click`, its alternatives and its second look, `click3` and `noc`."""
        first = [[simulate.first_click(t.truth)] for t in self.targets]
        prediction = self._decode(clicks=first)
        states = [
            _ClickState(target, clicks, self._mask(low_res[0]), low_res[:1], float(ious[0]))
            for target, clicks, low_res, ious in zip(
                self.targets, first, prediction.low_res_masks, prediction.iou_predictions, strict=True
            )
        ]
        if "click" in kinds:
            for state, low_res, ious in zip(states, prediction.low_res_masks, prediction.iou_predictions, strict=True):
                self._add("click", state.target, state.mask, state.predicted_iou)
                self._alternatives(state.target, low_res[1:], ious[1:])
        if SECOND_LOOKS["click"] in kinds:
            self._second_looks("click", prediction, clicks=first)
        if "click3" in kinds or "noc" in kinds:
            self._corrections(states, kinds)

    def _alternatives(self, target: _Target, low_res: Float32, ious: Float32) -> None:
        """The best of the three masks by predicted IoU, and by true IoU, which looks at the answer."""
        masks = [self._mask(logits) for logits in low_res]
        by_prediction = int(np.argmax(ious))
        by_truth = int(np.argmax([mask_iou(mask, target.truth) for mask in masks]))
        for kind, best in zip(CLICK_ALTERNATIVES, (by_prediction, by_truth), strict=True):
            self._add(kind, target, masks[best], float(ious[best]))

    def _corrections(self, states: list[_ClickState], kinds: Collection[str]) -> None:
        """Click on the largest error until three clicks (`click3`), or until NOC_TARGETS or NOC_LIMIT (`noc`)."""
        for count in range(1, (NOC_LIMIT if "noc" in kinds else 3) + 1):
            if count > 1:
                self._correct([s for s in states if count <= 3 or len(s.clicks_to) < len(NOC_TARGETS)])
            for state in states:
                iou = mask_iou(state.mask, state.target.truth)
                for goal in NOC_TARGETS:
                    if iou >= goal:
                        state.clicks_to.setdefault(goal, count)
            if count == 3 and "click3" in kinds:
                for state in states:
                    self._add("click3", state.target, state.mask, state.predicted_iou)
        if "noc" in kinds:
            self.result.click_counts += [ClickCount(self.index, s.target.object.id, s.clicks_to) for s in states]

    def _correct(self, states: list[_ClickState]) -> None:
        """One more click on each object that has a wrong pixel left, the previous logits fed back."""
        active = []
        for state in states:
            click = simulate.correction_click(state.target.truth, state.mask, state.clicks)
            if click is not None:
                state.clicks.append(click)
                active.append(state)
        if not active:
            return
        prediction = self._decode(clicks=[s.clicks for s in active], mask_inputs=[s.low_res for s in active])
        for state, low_res, ious in zip(active, prediction.low_res_masks, prediction.iou_predictions, strict=True):
            state.mask, state.low_res, state.predicted_iou = self._mask(low_res[0]), low_res[:1], float(ious[0])

    def _baselines(self, kinds: Collection[str]) -> None:
        box_name, ellipse_name, grabcut_name, disc_name = baselines.BASELINES
        for target in self.targets:
            if "box" in kinds:
                box = simulate.tight_box(target.truth)
                self._add(box_name, target, baselines.filled_box(box, self.size))
                self._add(ellipse_name, target, baselines.ellipse_in_box(box, self.size))
                self._add(grabcut_name, target, baselines.grabcut(self.image, box))
            if "click" in kinds:
                self._add(disc_name, target, baselines.click_disc(simulate.first_click(target.truth), self.size))
