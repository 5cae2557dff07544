from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam_edge.contract import Runtime
from sam_edge.evaluate.dataset import open_records
from sam_edge.evaluate.parity import (
    PARITY_KINDS,
    _upper_quotient,
    compare_evaluations,
    measure,
    output_errors,
)
from sam_edge.runtimes import with_onnxruntime
from tests.sa1b import PHOTOS
from tests.small_artifact import whole_artifact


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return with_onnxruntime.load(whole_artifact(Path(tmp_path_factory.mktemp("artifact"))), 1)


class Changed:
    """The runtime with something done to its logits."""

    def __init__(self, inner: Runtime, change: Any) -> None:
        self.inner, self.change, self.spec, self.name = inner, change, inner.spec, "changed"
        self.encode = inner.encode

    def decode(self, embedding: Any, prompts: Any) -> Any:
        prediction = self.inner.decode(embedding, prompts)
        return dataclasses.replace(prediction, low_res_masks=self.change(prediction.low_res_masks))


def test_a_runtime_agrees_with_itself_in_every_kind(runtime: Runtime) -> None:
    records = open_records([PHOTOS])
    first, second = (measure(runtime, records) for _ in range(2))
    kinds = compare_evaluations(first, second)
    assert tuple(kinds) == PARITY_KINDS
    assert all(
        (k.mask_iou_min, k.share_below_90, k.retention, k.retention_high) == (1, 0, 1, 1) for k in kinds.values()
    )
    assert all(error.max_abs == 0 for error in output_errors(runtime, runtime, records).values())


def test_the_interval_of_retention_is_wider_with_fewer_objects() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.uniform(0.3, 0.9, 2000)
    ours = 0.98 * theirs + rng.normal(0, 0.1, 2000)
    few, many = (_upper_quotient(ours[:n], theirs[:n]) for n in (9, 2000))
    assert few is not None and many is not None
    assert few > ours[:9].mean() / theirs[:9].mean() and many > ours.mean() / theirs.mean()
    assert many < 0.99 < few
    assert _upper_quotient(np.zeros(3), np.zeros(3)) is None


def test_other_masks_are_seen_in_iou_and_errors(runtime: Runtime) -> None:
    records = open_records([PHOTOS])[:2]
    reference = measure(runtime, records)
    shifted = Changed(runtime, lambda x: np.roll(x, 2, axis=3))
    kinds = compare_evaluations(reference, measure(shifted, records))
    assert min(k.mask_iou_mean for k in kinds.values()) < 0.99
    errors = output_errors(runtime, shifted, records)
    assert errors["low_res_masks"].max_abs > 0 and errors["image_embeddings"].max_abs == 0


def test_masks_that_vanish_score_nothing_unless_both_are_empty(runtime: Runtime) -> None:
    records = open_records([PHOTOS])[:1]
    empty = Changed(runtime, lambda x: x * 0 - 1)
    gone, same = measure(empty, records), measure(empty, records)
    kinds = compare_evaluations(measure(runtime, records), gone)
    assert kinds["box"].mask_iou_mean < 1
    assert compare_evaluations(gone, same)["box"].mask_iou_mean == 1


@pytest.mark.parametrize("added", [(np.nan, 0.0), (0.0, np.nan), (np.nan, np.nan)])
def test_nan_on_one_photo_is_an_error_larger_than_any_on_others(runtime: Runtime, added: tuple[float, float]) -> None:
    records = open_records([PHOTOS])[:2]
    of_photos = iter(added)
    errors = output_errors(runtime, Changed(runtime, lambda x: x + np.float32(next(of_photos))), records)
    assert np.isnan(errors["low_res_masks"].max_abs)
