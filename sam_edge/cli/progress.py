"""Progress of training on standard error; nothing of it reaches standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sam_edge.cli.bars import bar

__all__ = ["TrainingReport", "encoding_progress", "training_progress"]

SHOWN = {"loss": "loss", "box_iou": "box IoU", "click_iou": "click IoU", "held_out_box_miou": "held-out box"}
SHOWN |= {"held_out_click_miou": "held-out click"}
SHOWN |= {"cosine": "cosine", "teacher_iou": "IoU with the teacher", "truth_iou": "with the truth"}
SHOWN |= {"held_out_cosine": "held-out cosine", "held_out_teacher_iou": "held-out IoU with the teacher"}
SMOOTHING = 0.98


class TrainingReport:
    """Called with a step's figures; draws their running means and keeps the newest of each in `last`."""

    def __init__(self, progress: Any, task: Any) -> None:
        self.progress, self.task = progress, task
        self.last: dict[str, Any] = {}
        self._means: dict[str, float] = {}

    def __call__(self, figures: dict[str, Any]) -> None:
        self.progress.start()  # not before: an error in the data is a line of its own
        self.last |= figures
        for name in SHOWN.keys() & figures.keys():
            smooth = 0.0 if name.startswith("held_out") else SMOOTHING
            mean = self._means.get(name, figures[name])
            self._means[name] = smooth * mean + (1 - smooth) * figures[name]
        text = "  ".join(f"{label} {self._means[name]:.3f}" for name, label in SHOWN.items() if name in self._means)
        self.progress.update(self.task, completed=figures["step"], description=text)


@contextmanager
def training_progress(steps: int, visible: bool = True) -> Iterator[TrainingReport]:
    """A bar with running loss and IoU and the time that is left; it appears with the first step."""
    progress = bar("", visible=visible, keep=True)
    try:
        yield TrainingReport(progress, progress.add_task("training", total=steps))
    finally:
        if progress.live.is_started:
            progress.stop()


@contextmanager
def encoding_progress(visible: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Yields what to call with (done, total) photos; the bar stands while photos are encoded and stops at the last."""
    progress = bar("", visible=visible, keep=True)
    task = progress.add_task("the teacher's embeddings", total=None)

    def on_photo(done: int, total: int) -> None:
        progress.start()
        progress.update(task, completed=done, total=total)
        if done == total:
            progress.stop()  # the training's bar follows, and there can be one at a time

    try:
        yield on_photo
    finally:
        if progress.live.is_started:
            progress.stop()
