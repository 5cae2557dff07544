"""`python -m sam_edge.benchmarks.mask_grid DATA...`: how well small objects can be drawn by logits at stride 4 at all.

Two kinds of perfect logits for each object's true mask, enlarged bilinearly as a model's are: those that repeat the
share of each cell that the object covers (what a loss on the logits' own grid teaches), and those that draw the best
mask (found by gradient descent; what a loss on the enlarged logits can teach).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sam_edge.contract import MASK_STRIDE
from sam_edge.errors import DataError, SamEdgeError
from sam_edge.evaluate.dataset import Record, open_records
from sam_edge.evaluate.metrics import size_class
from sam_edge.train.losses import LossWeights, enlarged, mask_iou, mask_losses

__all__ = ["best_logits", "grid_limits"]

FRAME_PX = 96  # holds any small object and what surrounds it
STEPS, RATE = 400, 0.2
SURE = 8.0  # logits of a share of 0 and of 1 are half of this away from the outline


def grid_limits(records: Sequence[Record]) -> dict[str, float]:
    """Mean IoU in percent of both kinds of logits over the small objects of `records`, at the photos' stored size.

    Raises DataError where there is none.
    """
    frames = [frame for record in records for frame in _frames(record)]
    if not frames:
        raise DataError(f"{len(records)} photos hold no small object (below 32 px at 640 px). Give others.")
    truth = torch.stack(frames)
    shares = SURE * (F.avg_pool2d(truth, MASK_STRIDE) - 0.5)
    return {
        "objects": len(truth),
        "shares_of_cells_miou_percent": _percent(shares, truth),
        "best_logits_miou_percent": _percent(best_logits(shares, truth), truth),
    }


def best_logits(start: Tensor, truth: Tensor) -> Tensor:
    """start (B, 1, h, w), truth (B, 1, H, W) in {0, 1} -> logits whose enlarged masks have next to the best IoU."""
    logits = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=RATE)
    for _ in range(STEPS):
        loss = mask_losses(logits, truth, LossWeights(focal=0.0, near=0.5, jaccard=1.0)).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return logits.detach()


def _frames(record: Record) -> list[Tensor]:
    """The true mask of each small object that fits, (1, FRAME_PX, FRAME_PX), its cells those of the photo's."""
    frames = []
    for found in record.objects():
        mask = found.mask()
        if size_class(int(mask.sum()), found.size) != "small":
            continue
        top, left = (_frame_start(np.flatnonzero(mask.any(axis))) for axis in (1, 0))
        part = mask[top : top + FRAME_PX, left : left + FRAME_PX]
        if part.sum() == mask.sum():
            frame = np.zeros((1, FRAME_PX, FRAME_PX), np.float32)
            frame[0, : part.shape[0], : part.shape[1]] = part
            frames.append(torch.from_numpy(frame))
    return frames


def _frame_start(hits: NDArray[np.intp]) -> int:
    """Where a frame begins: on a cell of the photo, two before the object's first row or column."""
    return max(0, int(hits[0]) // MASK_STRIDE - 2) * MASK_STRIDE


def _percent(logits: Tensor, truth: Tensor) -> float:
    return round(100 * float(mask_iou(enlarged(logits, truth), truth).mean()), 1)


@click.command(epilog="Example: python -m sam_edge.benchmarks.mask_grid DATA/train/coco-000.tar")
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(data: tuple[Path, ...]) -> None:
    """What logits at a quarter of the photo's side can draw of the small objects of DATA (SA-1B's format)."""
    try:
        limits = grid_limits(open_records(data))
    except SamEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    print(json.dumps(limits))


if __name__ == "__main__":
    main()
