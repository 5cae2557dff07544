"""Progress bars on standard error; rich is imported only where a bar is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from sam_edge.evaluate.protocol import Evaluation

__all__ = ["bar", "labelling_progress", "photos_progress", "points_progress"]


@contextmanager
def photos_progress(total: int) -> Iterator[Callable[[Evaluation], None]]:
    """Yields what to call after each photo; the bar shows the running mIoU of `box` and `click`."""
    with bar("photos") as shown:
        task = shown.add_task("", total=total)

        def on_photo(evaluation: Evaluation) -> None:
            running = {kind: evaluation.mean_iou(kind) for kind in ("box", "click")}
            text = ", ".join(f"{kind} {100 * iou:.1f} %" for kind, iou in running.items() if iou == iou)
            shown.update(task, advance=1, description=text and f"mIoU: {text}")

        yield on_photo


@contextmanager
def labelling_progress(total: int) -> Iterator[Callable[[], None]]:
    """Yields what to call after each photo."""
    with bar("photos") as shown:
        task = shown.add_task("", total=total)
        yield lambda: shown.update(task, advance=1)


@contextmanager
def points_progress() -> Iterator[Callable[[int, int], None] | None]:
    """Yields what to call with (done, total), or None where nobody watches: rich alone costs 0.1 s."""
    if not sys.stderr.isatty():
        yield None
        return
    with bar("points") as shown:
        task = shown.add_task("")
        yield lambda done, total: shown.update(task, completed=done, total=total)


def bar(unit: str, *, visible: bool = True, keep: bool = False) -> Progress:
    """A bar with its count and the time that is left; `keep`: it stays on the screen when it is full."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counted = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    text = TextColumn("{task.description}")
    columns = (TextColumn(unit), *counted, text) if unit else (text, *counted)
    return Progress(*columns, console=Console(stderr=True), transient=not keep, disable=not visible)
