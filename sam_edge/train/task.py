"""What a run (run.py) needs of a task: its configuration, its model, its samples and its step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from sam_edge.contract import MASK_STRIDE
from sam_edge.evaluate.dataset import Record
from sam_edge.model.sam import Sam
from sam_edge.train.losses import LossWeights

__all__ = ["Place", "RunConfig", "Task"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What decides the result of every run; saved with it, and compared when it is resumed.

    `photos_per_step` counts all processes and the `accumulate` batches of a step together. `stream` reads tars from
    front to back, each photo once an epoch (see stream.py), and not drawn at random. `trunk_lr_scale` applies to the
    pretrained trunk, whose first `frozen_blocks` are fixed. Masks are judged in cells of `loss_stride` pixels a side
    (see losses.py). Weights, averages and losses are float32 at either `precision` ("fp32", "bf16").
    """

    data: tuple[str, ...] = ()
    steps: int = 4000
    photos_per_step: int = 8
    accumulate: int = 1
    objects_per_photo: int = 4
    stream: bool = False
    held_out_photos: int = 60
    lr: float = 6e-4
    final_lr_share: float = 0.0
    warmup_steps: int = 100
    trunk_lr_scale: float = 1.0
    frozen_blocks: int = 0
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    focal_weight: float = LossWeights.focal
    loss_stride: int = MASK_STRIDE
    precision: str = "fp32"
    seed: int = 0


class Place(NamedTuple):
    """Where a process stands: its `share` photos of each batch, and how many batches it has had before."""

    rank: int
    processes: int
    workers: int
    share: int
    first_batch: int


class Task(Protocol):
    """What a run learns, and from what."""

    @property
    def config(self) -> RunConfig: ...

    @property
    def held_out(self) -> Sequence[Record]: ...

    @property
    def prepares_for_long(self) -> bool:
        """Whether processes may wait for each other in `prepare` longer than collectives usually do."""

    def empty_model(self) -> Sam:
        """A model for the averaged weights."""

    def start(self) -> Sam:
        """The model to train, with its first weights, in training mode."""

    def prepare(self, accelerator: Any) -> None:
        """What must be there before the first batch; called by all processes at once."""

    def step_module(self, model: Sam, device: torch.device) -> nn.Module:
        """`forward(batch, corrections)` -> (loss, figures as floats)."""

    def parameter_groups(self, model: Sam) -> list[dict[str, Any]]:
        """AdamW's groups, each with its share of the learning rate as `scale`."""

    def corrections(self, step: int) -> int:
        """How many correction rounds a step has."""

    def data(self, place: Place) -> Dataset[Any] | IterableDataset[Any]:
        """Samples by number, or a stream of this process's samples from `place.first_batch` on."""

    def collate(self, samples: list[Any]) -> Any:
        """Samples -> a NamedTuple of tensors."""

    def validate(self, model: Sam) -> tuple[dict[str, float], float]:
        """Figures on the held-out photos, and the one by which the best weights are kept (larger is better)."""
