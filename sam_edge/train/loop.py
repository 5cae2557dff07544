"""Training: from SA-1B tars and folders to a checkpoint. Killed at any moment, it continues exactly.

A step's samples, prompts and corrections depend on (seed, step) alone, and the whole state (weights, averages,
optimiser, step) is written atomically; so a run that was killed and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from sam_edge.errors import CheckpointError, DataError, require
from sam_edge.evaluate.dataset import open_records
from sam_edge.model.checkpoints import load_model, save_checkpoint, take_over
from sam_edge.model.nano import NanoEncoder
from sam_edge.model.registry import build_model
from sam_edge.model.sam import Sam
from sam_edge.train.data import AugmentConfig, Batch, PromptableDataset, collate, split_held_out
from sam_edge.train.prompting import PromptMix
from sam_edge.train.step import TrainingStep, draw_corrections
from sam_edge.train.validate import validate

__all__ = ["TrainConfig", "train"]


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run's result; saved with it, and compared when it is resumed.

    Photos are held out of `data` alone, so that `more_data` does not change which ones.
    `photos_per_step` counts all processes together. `source_weights` draws photos by source name (a source that is not
    named has weight 1). `trunk_lr_scale` applies to the pretrained trunk, whose first `frozen_blocks` are fixed.
    Weights, averages and losses are float32 at either `precision` ("fp32", "bf16").
    """

    model: str = "nano"
    data: tuple[str, ...] = ()
    more_data: tuple[str, ...] = ()
    init: str = ""
    image_size: int = 256
    steps: int = 4000
    photos_per_step: int = 8
    objects_per_photo: int = 4
    lr: float = 6e-4
    final_lr_share: float = 0.0
    warmup_steps: int = 100
    trunk_lr_scale: float = 0.15
    frozen_blocks: int = 5
    freeze_depthwise: bool = False
    precision: str = "fp32"
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    focal_weight: float = 20.0
    near_weight: float = 0.0
    correction_shares: tuple[float, ...] = (0.6, 0.3, 0.1)
    source_weights: dict[str, float] = field(default_factory=dict)
    augment: AugmentConfig = AugmentConfig()
    mix: PromptMix = PromptMix()
    held_out_photos: int = 60
    seed: int = 0


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

    Writes state.pt (for resuming), last.safetensors (averaged weights), best.safetensors (by held-out mIoU), log.jsonl
    and TensorBoard events. `report` gets a dict of figures a step. Raises DataError, CheckpointError.
    """
    accelerate = require("accelerate", extra="train")
    accelerate.state.AcceleratorState._reset_state()  # or a second run in one process could not have another precision
    accelerator = accelerate.Accelerator(
        cpu=not torch.cuda.is_available(), mixed_precision="bf16" if config.precision == "bf16" else "no"
    )
    run = _Run(config, out, accelerator)
    log = _Log(out, accelerator.is_main_process)
    last_save = time.monotonic()
    for step, batch in run.batches(workers):
        figures = run.step(step, batch)
        final = step + 1 == config.steps
        if accelerator.is_main_process:
            if run.held_out and (final or (step + 1) % validate_every == 0):
                figures |= run.validate(step + 1)
            if final or time.monotonic() - last_save > save_every_s:
                run.save(step + 1)
                last_save = time.monotonic()
            log.write(step + 1, figures)
            report({"step": step + 1, "steps": config.steps, **figures})
    accelerator.wait_for_everyone()
    return out / "last.safetensors"


class _Run:
    """The state of a run: model, averages, optimiser, step."""

    def __init__(self, config: TrainConfig, out: Path, accelerator: Any) -> None:
        self.config, self.out, self.accelerator = config, out, accelerator
        out.mkdir(parents=True, exist_ok=True)
        records = open_records(config.data)
        self.train_records, self.held_out = split_held_out(records, min(config.held_out_photos, len(records) // 3))
        if config.more_data:
            self.train_records = self.train_records + open_records(config.more_data)
        if not self.train_records:
            raise DataError(f"{', '.join(config.data)}: no photo left for training.")
        torch.manual_seed(config.seed)
        self.model = _starting_model(config)
        if isinstance(self.model.image_encoder, NanoEncoder):
            self.model.image_encoder.trunk.freeze(config.frozen_blocks, config.freeze_depthwise)
        self.average = {k: v.detach().clone().float() for k, v in self.model.state_dict().items()}
        self.optimizer = _optimizer(self.model, config)
        self.start_step, self.best = 0, -1.0
        self._resume()
        step_module = TrainingStep(self.model, config.focal_weight, config.near_weight).to(accelerator.device)
        self.average = {k: v.to(accelerator.device) for k, v in self.average.items()}
        self.wrapped, self.optimizer = accelerator.prepare(step_module, self.optimizer)

    def batches(self, workers: int) -> Iterator[tuple[int, Batch]]:
        """(step, this process's share of the step's batch), from where the run stands."""
        config, accelerator = self.config, self.accelerator
        share = config.photos_per_step // accelerator.num_processes
        dataset = PromptableDataset(
            self.train_records,
            config.source_weights,
            config.image_size,
            config.objects_per_photo,
            config.augment,
            config.mix,
            config.seed,
        )
        sampler = _StepSampler(
            self.start_step, config.steps, config.photos_per_step, accelerator.process_index * share, share
        )
        loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_single_threaded,
        )
        for step, batch in enumerate(loader, start=self.start_step):
            yield step, Batch(*(t.to(accelerator.device) for t in batch))

    def step(self, step: int, batch: Batch) -> dict[str, Any]:
        config = self.config
        lr = learning_rate(config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        corrections = draw_corrections(config.correction_shares, np.random.default_rng([config.seed, step, 1]))
        loss, figures = self.wrapped(batch, corrections)
        if not math.isfinite(figures["loss"]):
            path = self.out / f"bad-batch-{step}.pt"
            torch.save(tuple(batch), path)
            raise DataError(f"the loss is {figures['loss']} at step {step}; expected a number. The batch is in {path}.")
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._update_average(step)
        figures |= {"lr": lr, "grad_norm": float(norm), "corrections": corrections}
        return dict(figures)

    def validate(self, step: int) -> dict[str, Any]:
        """Held-out mIoU of the averaged weights; keeps the best."""
        model = self.averaged_model()
        figures = validate(model, self.held_out, self.config.image_size)
        score = (figures["held_out_box_miou"] + figures["held_out_click_miou"]) / 2
        if score > self.best:
            self.best = score
            save_checkpoint(model, self.out / "best.safetensors")
        return figures

    def averaged_model(self) -> Sam:
        model = build_model(self.config.model, image_size=self.config.image_size)
        model.load_state_dict({k: v.cpu() for k, v in self.average.items()})
        return model.eval()

    def save(self, step: int) -> None:
        state = {
            "config": json.dumps(asdict(self.config)),
            "step": step,
            "best": self.best,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = self.out / "state.pt.tmp"
        torch.save(state, temporary)
        temporary.replace(self.out / "state.pt")
        save_checkpoint(self.averaged_model(), self.out / "last.safetensors")

    def _resume(self) -> None:
        path = self.out / "state.pt"
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"{path}: not a training state ({type(error).__name__}). Delete it to start over from --init."
            ) from None
        saved, wanted = json.loads(state["config"]), json.loads(json.dumps(asdict(self.config)))
        differing = [f"{k}: was {saved.get(k)!r}, now {wanted[k]!r}" for k in wanted if saved.get(k) != wanted[k]]
        if differing:
            raise CheckpointError(
                f"{self.out} holds a run with another configuration ({'; '.join(differing)}). "
                "Use the same options to continue it, or another folder."
            )
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.start_step, self.best = int(state["step"]), float(state["best"])

    def _update_average(self, step: int) -> None:
        decay = min(self.config.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if value.dtype.is_floating_point:
                    self.average[name].lerp_(value.float(), 1 - decay)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine from lr to lr * final_lr_share."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    fall = 0.5 * (1 + math.cos(math.pi * step / max(1, config.steps)))
    return config.lr * warm * (config.final_lr_share + (1 - config.final_lr_share) * fall)


def _starting_model(config: TrainConfig) -> Sam:
    model = build_model(config.model, image_size=config.image_size)
    if config.init:
        take_over(model, load_model(config.init).state_dict(), config.init)
    return model.train()


def _optimizer(model: Sam, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; no decay for biases and norms, a smaller rate for the pretrained trunk."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((".trunk." in name, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "scale": config.trunk_lr_scale if in_trunk else 1.0,
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
            for (in_trunk, decayed), parameters in groups.items()
        ],
        lr=config.lr,
        betas=(0.9, 0.98),
    )


class _StepSampler(Sampler[list[int]]):
    """Sample numbers of every step from `start`: a step's batch is [step * n + first, ... + share)."""

    def __init__(self, start: int, stop: int, per_step: int, first: int, share: int) -> None:
        self.start, self.stop, self.per_step, self.first, self.share = start, stop, per_step, first, share

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            base = step * self.per_step + self.first
            yield list(range(base, base + self.share))

    def __len__(self) -> int:
        return max(0, self.stop - self.start)


def _single_threaded(worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


class _Log:
    """log.jsonl and TensorBoard, by the main process only."""

    def __init__(self, out: Path, active: bool) -> None:
        self.active = active
        if active:
            tensorboard = require("torch.utils.tensorboard", extra="train")
            self.events = tensorboard.SummaryWriter(str(out))
            self.file = (out / "log.jsonl").open("a", encoding="utf-8")

    def write(self, step: int, figures: dict[str, Any]) -> None:
        if not self.active:
            return
        for name, value in figures.items():
            self.events.add_scalar(name, value, step)
        self.file.write(json.dumps({"step": step, "time": time.time(), **figures}) + "\n")
        self.file.flush()
