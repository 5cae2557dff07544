from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from sam_edge.benchmarks.mask_grid import best_logits, main
from sam_edge.rle import mask_to_rle, rle_to_coco
from sam_edge.train.losses import enlarged, mask_iou


def photo_of(folder: Path, mask: np.ndarray) -> Path:
    height, width = mask.shape
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(folder / "a.jpg")
    found = {"id": 1, "area": int(mask.sum()), "segmentation": rle_to_coco(mask_to_rle(mask))}
    image = {"width": width, "height": height}
    (folder / "a.json").write_text(json.dumps({"image": image, "annotations": [found]}))
    return folder


def test_logits_at_stride_4_can_draw_a_small_object_far_better_than_the_shares_of_their_cells(tmp_path: Path) -> None:
    mask = np.zeros((320, 320), bool)
    mask[101:103, 80:100] = True  # 2 px wide: no cell is more than half covered
    mask[101:120, 90:96] = True
    done = CliRunner().invoke(main, [str(photo_of(tmp_path, mask))], catch_exceptions=False)
    found = json.loads(done.output)
    assert found["objects"] == 1
    assert found["best_logits_miou_percent"] > found["shares_of_cells_miou_percent"] + 10


def test_the_best_logits_are_no_worse_than_what_they_start_from() -> None:
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    disc = ((x - 40) ** 2 + (y - 50) ** 2 < 12**2).float()[None, None]
    start = 8.0 * (torch.nn.functional.avg_pool2d(disc, 4) - 0.5)
    before, after = (mask_iou(enlarged(logits, disc), disc) for logits in (start, best_logits(start, disc)))
    assert after >= before > 0.9


def test_data_without_a_small_object_is_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(photo_of(tmp_path, np.ones((320, 320), bool)))])
    assert done.exit_code == 1 and "no small object" in done.output and "Traceback" not in done.output


@pytest.mark.parametrize("where", ["none", "none.tar"])
def test_data_that_is_not_there_is_one_line(tmp_path: Path, where: str) -> None:
    done = CliRunner().invoke(main, [str(tmp_path / where)])
    assert done.exit_code == 1 and "does not exist" in done.output
