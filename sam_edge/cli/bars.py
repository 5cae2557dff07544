"""Progress bars on standard error; rich is imported only where a bar is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from sam_edge.evaluate.protocol import Evaluation

__all__ = ["labelling_progress", "photos_progress", "points_progress"]


@contextmanager
def photos_progress(total: int) -> Iterator[Callable[[Evaluation], None]]:
    """Yields what to call after each photo; the bar shows the running mIoU of `box` and `click`."""
    with _bar("photos") as bar:
        task = bar.add_task("", total=total)

        def on_photo(evaluation: Evaluation) -> None:
            running = {kind: evaluation.mean_iou(kind) for kind in ("box", "click")}
            shown = ", ".join(f"{kind} {100 * iou:.1f} %" for kind, iou in running.items() if iou == iou)
            bar.update(task, advance=1, description=shown and f"mIoU: {shown}")

        yield on_photo


@contextmanager
def labelling_progress(total: int) -> Iterator[Callable[[], None]]:
    """Yields what to call after each photo."""
    with _bar("photos") as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.update(task, advance=1)


@contextmanager
def points_progress() -> Iterator[Callable[[int, int], None] | None]:
    """Yields what to call with (done, total), or None where nobody watches: rich alone costs 0.1 s."""
    if not sys.stderr.isatty():
        yield None
        return
    with _bar("points") as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _bar(unit: str) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(unit),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)
