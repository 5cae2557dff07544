"""Training: from SA-1B tars and folders to a checkpoint. Killed at any moment, it continues exactly (see run.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from sam_edge.errors import DataError
from sam_edge.evaluate.dataset import Record, open_records
from sam_edge.model.checkpoints import load_model, take_over
from sam_edge.model.config import ModelConfig
from sam_edge.model.nano import NanoEncoder
from sam_edge.model.registry import build_model
from sam_edge.model.sam import Sam
from sam_edge.train.data import AugmentConfig, Batch, PromptableDataset, collate, split_held_out
from sam_edge.train.losses import LossWeights
from sam_edge.train.prompting import PromptMix
from sam_edge.train.run import run_task
from sam_edge.train.step import TrainingStep, draw_corrections
from sam_edge.train.stream import SampleStream, streamed_and_held_out
from sam_edge.train.task import Place, RunConfig
from sam_edge.train.unit_scale import bring_to_unit_scale
from sam_edge.train.validate import validate

__all__ = ["LEARN", "PromptTask", "TrainConfig", "train"]

# What can be trained alone -> where its parameters' names start. The IoU heads last: masks that no longer change, for
# instance those of a mean of several runs' weights, are easier to judge.
LEARN = {"all": ("",), "iou_predictions": ("mask_decoder.iou_prediction_head.", "mask_decoder.mask_iou_head.")}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Everything that decides a run's result; see RunConfig for what every run has.

    `model` is a name or what `ModelConfig.to_dict` returns. Without `init` nothing is pretrained: then the whole trunk
    learns, at the full rate. Photos are held out of `data` alone, so that `more_data` does not change which ones.
    `source_weights` draws photos by source name (a source that is not named has weight 1), and `by_objects` those of a
    source in proportion to their objects; with `stream` both have no effect. `learn` is what of the model is trained,
    one of LEARN.
    """

    learn: str = "all"
    model: str | dict[str, Any] = "nano"
    more_data: tuple[str, ...] = ()
    init: str = ""
    image_size: int = 256
    trunk_lr_scale: float = 0.15
    frozen_blocks: int = 5
    freeze_depthwise: bool = False
    near_weight: float = 0.0
    jaccard_weight: float = 0.0
    correction_shares: tuple[float, ...] = (0.6, 0.3, 0.1)
    source_weights: dict[str, float] = field(default_factory=dict)
    by_objects: bool = False
    augment: AugmentConfig = AugmentConfig()
    mix: PromptMix = PromptMix()


def train(
    config: TrainConfig,
    out: Path,
    *,
    save_every_s: float = 180.0,
    validate_every: int = 500,
    workers: int = 1,
    report: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> Path:
    """Run `config.steps` steps into the folder `out`, continuing what is there; return the final checkpoint's path.

    What is written, and what it raises: see `run_task`.
    """
    task = PromptTask(config, out)
    return run_task(task, out, save_every_s=save_every_s, validate_every=validate_every, workers=workers, report=report)


class PromptTask:
    """Masks from prompts, taught by annotated photos (Segment Anything, arXiv 2304.02643, appendix A)."""

    prepares_for_long = False

    def __init__(self, config: TrainConfig, out: Path) -> None:
        self.config, self.out = config, out
        self.train_records: list[Record] = []
        self.tars: list[Path] = []
        if config.stream:
            self.tars, self.held_out = streamed_and_held_out((*config.data, *config.more_data), config.held_out_photos)
            return
        records = open_records(config.data)
        self.train_records, self.held_out = split_held_out(records, min(config.held_out_photos, len(records) // 3))
        if config.more_data:
            self.train_records = self.train_records + open_records(config.more_data)
        if not self.train_records:
            raise DataError(f"{', '.join(config.data)}: no photo left for training.")

    def empty_model(self) -> Sam:
        model = self.config.model
        return build_model(
            model if isinstance(model, str) else ModelConfig.from_dict(model), image_size=self.config.image_size
        )

    def start(self) -> Sam:
        config = self.config
        model = self.empty_model()
        trunk = model.image_encoder.trunk if isinstance(model.image_encoder, NanoEncoder) else None
        if config.init:
            take_over(model, load_model(config.init, config.image_size).state_dict(), config.init)
        elif trunk is not None:
            bring_to_unit_scale(trunk, self.train_records or self.held_out or open_records(self.tars[:1]), model.spec)
        if trunk is not None:
            trunk.freeze(config.frozen_blocks if config.init else 0, config.freeze_depthwise)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name.startswith(LEARN[config.learn]))
        model.train()
        if config.learn != "all":
            _keep_statistics(model)
        return model

    def prepare(self, accelerator: Any) -> None:
        """Nothing: photos are read as they are drawn."""

    def step_module(self, model: Sam, device: torch.device) -> nn.Module:
        config = self.config
        weights = LossWeights(config.focal_weight, config.near_weight, config.jaccard_weight)
        return TrainingStep(model, weights, config.loss_stride)

    def parameter_groups(self, model: Sam) -> list[dict[str, Any]]:
        scale = self.config.trunk_lr_scale if self.config.init else 1.0
        return parameter_groups(model, scale, self.config.weight_decay)

    def corrections(self, step: int) -> int:
        config = self.config
        return draw_corrections(config.correction_shares, np.random.default_rng([config.seed, step, 1]))

    def data(self, place: Place) -> Dataset[Any] | IterableDataset[Any]:
        config = self.config
        samples = PromptableDataset(
            self.train_records,
            config.source_weights,
            config.image_size,
            config.objects_per_photo,
            config.augment,
            config.mix,
            config.seed,
            config.by_objects,
        )
        if not config.stream:
            return samples
        held_out = frozenset(record.where for record in self.held_out)
        return SampleStream(self.tars, samples.of_record, config.seed, place, self.out, held_out)

    def collate(self, samples: list[Any]) -> Batch:
        return collate(samples)

    def validate(self, model: Sam) -> tuple[dict[str, float], float]:
        figures = validate(model, self.held_out, self.config.image_size)
        return figures, (figures["held_out_box_miou"] + figures["held_out_click_miou"]) / 2


def _keep_statistics(model: Sam) -> None:
    """Batch norms as they are at inference: their statistics are part of what does not learn."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def parameter_groups(model: Sam, trunk_lr_scale: float, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: no decay for biases and norms, a smaller rate for the pretrained trunk."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((".trunk." in name, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "scale": trunk_lr_scale if in_trunk else 1.0,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (in_trunk, decayed), parameters in groups.items()
    ]
