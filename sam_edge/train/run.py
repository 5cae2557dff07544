"""The machinery of a training run: state, averages, log, validation, processes. What is learnt is the task's.

A step's samples depend on (seed, step) alone, and the whole state (weights, averages, optimiser, step) is written
atomically; so a run that was killed and resumed ends with the weights of one that was not. Several processes (DDP) and
several batches a step (gradient accumulation) give the gradient of one large batch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import MISSING, asdict, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from sam_edge.errors import CheckpointError, DataError, SamEdgeError, first_line, require
from sam_edge.files import atomic_file
from sam_edge.model.checkpoints import save_checkpoint
from sam_edge.model.sam import Sam
from sam_edge.train.log import Log
from sam_edge.train.task import Place, RunConfig, Task

__all__ = ["learning_rate", "run_task"]

PREPARATION_TIMEOUT = timedelta(hours=24)  # one process may read a whole data set while the others wait for it


def run_task(
    task: Task,
    out: Path,
    *,
    save_every_s: float = 180.0,
    validate_every: int = 500,
    workers: int = 1,
    report: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> Path:
    """Run `task.config.steps` steps into the folder `out`, continuing what is there; return the last checkpoint's path.

    Writes state.pt (for resuming), last.safetensors (averaged weights), best.safetensors (by the task's held-out
    score), log.jsonl and TensorBoard events. `report` gets a dict of figures a step. Raises DataError, CheckpointError,
    OutputError.
    """
    accelerate = require("accelerate", extra="train")
    accelerate.state.AcceleratorState._reset_state()  # or a second run in one process could not have another precision
    waiting = [accelerate.InitProcessGroupKwargs(timeout=PREPARATION_TIMEOUT)] if task.prepares_for_long else []
    accelerator = accelerate.Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if task.config.precision == "bf16" else "no",
        kwargs_handlers=waiting,
    )
    run = _Run(task, out, accelerator)
    log = Log(out, accelerator.is_main_process)
    last_save = time.monotonic()
    for step, batches in run.batches(workers):
        figures = run.step(step, batches)
        final = step + 1 == task.config.steps
        if accelerator.is_main_process:
            if task.held_out and (final or (step + 1) % validate_every == 0):
                figures |= run.validate()
            if final or time.monotonic() - last_save > save_every_s:
                run.save(step + 1)
                last_save = time.monotonic()
            log.write(step + 1, figures)
            report({"step": step + 1, "steps": task.config.steps, **figures})
    accelerator.wait_for_everyone()
    return out / "last.safetensors"


class _Run:
    """The state of a run: model, averages, optimiser, step."""

    def __init__(self, task: Task, out: Path, accelerator: Any) -> None:
        self.task, self.config, self.out, self.accelerator = task, task.config, out, accelerator
        out.mkdir(parents=True, exist_ok=True)
        self.share, rest = divmod(self.config.photos_per_step, accelerator.num_processes * self.config.accumulate)
        if self.share == 0 or (rest and self.config.accumulate > 1):
            raise DataError(
                f"{self.config.photos_per_step} photos a step cannot be shared by {accelerator.num_processes} "
                f"processes x {self.config.accumulate} batches, expected a multiple of their product. Change --photos."
            )
        torch.manual_seed(self.config.seed)
        self.model = task.start()
        self.average = {k: v.detach().clone().float() for k, v in self.model.state_dict().items()}
        self.optimizer: Any = torch.optim.AdamW(task.parameter_groups(self.model), lr=self.config.lr, betas=(0.9, 0.98))
        self.start_step, self.best = 0, -1.0
        self._resume()
        task.prepare(accelerator)
        module = task.step_module(self.model, accelerator.device).to(accelerator.device)
        self.average = {k: v.to(accelerator.device) for k, v in self.average.items()}
        self.wrapped, self.optimizer = accelerator.prepare(module, self.optimizer)

    def batches(self, workers: int) -> Iterator[tuple[int, list[Any]]]:
        """(step, this process's share of the step as `accumulate` batches), from where the run stands."""
        config, accelerator = self.config, self.accelerator
        if self.start_step >= config.steps:  # a finished run reads nothing
            return
        first = self.start_step * config.accumulate
        place = Place(accelerator.process_index, accelerator.num_processes, workers, self.share, first)
        data = self.task.data(place)
        order: dict[str, Any] = (
            {"batch_size": self.share}
            if isinstance(data, IterableDataset)
            else {"batch_sampler": _StepSampler(place, self.start_step, config)}
        )
        loader = DataLoader(
            data,
            collate_fn=self.task.collate,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_single_threaded,
            **order,
        )
        samples = iter(loader)
        for step in range(self.start_step, config.steps):
            yield step, [self._next(samples) for _ in range(config.accumulate)]

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            batch = next(batches)
        except SamEdgeError as error:  # a loader's process sends its traceback as the message
            raise type(error)(_last_line(error)) from None
        return type(batch)(*(t.to(self.accelerator.device) for t in batch))

    def step(self, step: int, batches: list[Any]) -> dict[str, Any]:
        """One optimiser step over all of `batches`; returns their mean figures."""
        lr = learning_rate(self.config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        corrections = self.task.corrections(step)
        each = []
        for number, batch in enumerate(batches, start=1):
            last = number == len(batches)  # gradients travel between processes once a step
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                loss, figures = self.wrapped(batch, corrections)
                figures["loss"] = self._over_processes(figures["loss"])
                self._check_finite(step, "loss", figures["loss"], batch)
                self.accelerator.backward(loss / len(batches))
            each.append(figures)
        norm = float(self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.config.clip_norm))
        self._check_finite(step, "gradient's norm", norm, batches[-1])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._update_average(step)
        return {**_means(each), "lr": lr, "grad_norm": norm, "corrections": corrections}

    def _over_processes(self, loss: float) -> float:
        """The mean over all processes, so that all of them see the same and stop together."""
        if self.accelerator.num_processes == 1:
            return loss
        return float(self.accelerator.reduce(torch.tensor(loss, device=self.accelerator.device), "mean"))

    def _check_finite(self, step: int, name: str, value: float, batch: Any) -> None:
        if not math.isfinite(value):
            path = self.out / f"bad-batch-{step}.pt"
            _write_torch(tuple(batch), path)
            raise DataError(f"the {name} is {value} at step {step}; expected a number. The batch is in {path}.")

    def validate(self) -> dict[str, Any]:
        """Held-out figures of the averaged weights; keeps the best."""
        model = self.averaged_model().to(self.accelerator.device)
        figures, score = self.task.validate(model)
        if score > self.best:
            self.best = score
            save_checkpoint(model, self.out / "best.safetensors")
        return dict(figures)

    def averaged_model(self) -> Sam:
        model = self.task.empty_model()
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
        save_checkpoint(self.averaged_model(), self.out / "last.safetensors")
        _write_torch(state, self.out / "state.pt")  # after the weights: a state that says "finished" must have them

    def _resume(self) -> None:
        path = self.out / "state.pt"
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            saved = json.loads(state["config"])
        except Exception as error:
            raise CheckpointError(
                f"{path}: not a training state ({type(error).__name__}). Delete it to start over from --init."
            ) from None
        _check_same(self.out, saved, self.config)
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


def learning_rate(config: RunConfig, step: int) -> float:
    """Linear warm-up, then a cosine from lr to lr * final_lr_share."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    fall = 0.5 * (1 + math.cos(math.pi * step / max(1, config.steps)))
    return config.lr * warm * (config.final_lr_share + (1 - config.final_lr_share) * fall)


def _check_same(out: Path, saved: dict[str, Any], config: RunConfig) -> None:
    """Raise CheckpointError unless a state belongs to `config`. A field younger than the state had its default."""
    wanted = json.loads(json.dumps(asdict(config)))
    defaults = {field.name: field.default for field in fields(config) if field.default is not MISSING}
    had = {name: saved.get(name, defaults.get(name)) for name in wanted}
    differing = [f"{name}: was {had[name]!r}, now {wanted[name]!r}" for name in wanted if had[name] != wanted[name]]
    if differing:
        raise CheckpointError(
            f"{out} holds a run with another configuration ({'; '.join(differing)}). "
            "Use the same options to continue it, or another folder."
        )


def _write_torch(content: Any, path: Path) -> None:
    """torch.save under a temporary name, then renamed: `path` changes only when the file is complete. OutputError."""
    with atomic_file(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # closing the archive fails, too, once a write has failed, and hides why
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _means(each: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of every figure over the batches that have it."""
    if len(each) == 1:
        return each[0]
    names = dict.fromkeys(name for figures in each for name in figures)
    return {name: sum(have) / len(have) for name in names if (have := [f[name] for f in each if name in f])}


def _last_line(error: SamEdgeError) -> str:
    text = str(error).strip()
    return text.splitlines()[-1].partition(": ")[2] if text.startswith("Caught ") else text or first_line(error)


class _StepSampler(Sampler[list[int]]):
    """Sample numbers of every batch from step `start`: of a step's numbers, each process takes its own share."""

    def __init__(self, place: Place, start: int, config: RunConfig) -> None:
        self.place, self.start, self.config = place, start, config

    def __iter__(self) -> Iterator[list[int]]:
        place, config = self.place, self.config
        for step in range(self.start, config.steps):
            for number in range(config.accumulate):
                base = step * config.photos_per_step + (number * place.processes + place.rank) * place.share
                yield list(range(base, base + place.share))

    def __len__(self) -> int:
        return max(0, self.config.steps - self.start) * self.config.accumulate


def _single_threaded(worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
