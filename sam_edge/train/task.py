"""What a run (run.py) needs of a task: its configuration, its model, its samples and its step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from sam_edge.evaluate.dataset import Record
from sam_edge.model.sam import Sam

__all__ = ["Place", "RunConfig", "Task"]


class RunConfig(Protocol):
    """The fields of a task's configuration (a frozen dataclass) that every run has."""

    @property
    def steps(self) -> int: ...
    @property
    def photos_per_step(self) -> int: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def final_lr_share(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def clip_norm(self) -> float: ...
    @property
    def ema_decay(self) -> float: ...
    @property
    def seed(self) -> int: ...


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
