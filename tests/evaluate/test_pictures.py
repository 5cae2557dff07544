"""Contact sheets of real evaluations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sam_edge.evaluate.dataset import open_records
from sam_edge.evaluate.pictures import PICTURE_KINDS, contact_sheet, write_contact_sheets
from sam_edge.evaluate.protocol import evaluate
from sam_edge.runtimes import with_onnxruntime
from tests.sa1b import write_set
from tests.small_artifact import small_artifact


def test_a_sheet_is_written_for_each_kind_whose_masks_were_kept(tmp_path: Path) -> None:
    small_artifact(tmp_path / "small")
    runtime = with_onnxruntime.load(tmp_path / "small", 1, canary=False)
    records = open_records([write_set(tmp_path / "set")])
    kept = evaluate(runtime, records, kinds=("box", "click"), keep_masks=PICTURE_KINDS, free_baselines=False)
    sheets = write_contact_sheets(kept, records, tmp_path)
    assert [sheet.name for sheet in sheets] == ["box.png", "click.png"]
    with Image.open(sheets[0]) as picture:
        assert picture.mode == "RGB"
        assert picture.width > picture.height
        assert np.asarray(picture).std() > 10

    not_kept = evaluate(runtime, records, kinds=("box",), free_baselines=False)
    assert write_contact_sheets(not_kept, records, tmp_path) == []


def test_best_masks_come_first(tmp_path: Path) -> None:
    small_artifact(tmp_path / "small")
    runtime = with_onnxruntime.load(tmp_path / "small", 1, canary=False)
    records = open_records([write_set(tmp_path / "set")])
    result = evaluate(runtime, records, kinds=("box",), keep_masks=PICTURE_KINDS, free_baselines=False)
    ranked = sorted(result.of("box"), key=lambda score: -score.iou)
    best, worst = contact_sheet(ranked[:1], records), contact_sheet(ranked[-1:], records)
    whole = contact_sheet(ranked, records)
    tile = (slice(28, 28 + 256), slice(8, 8 + 256))
    assert np.array_equal(whole[tile], best[tile])
    assert not np.array_equal(best[tile], worst[tile])
