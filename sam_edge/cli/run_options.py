"""The options of a training run: what `sam-edge train` and `sam-edge distill` have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sam_edge.contract import MASK_STRIDE

__all__ = ["AT_LEAST_0", "AT_LEAST_1", "SHARE", "run_options"]

AT_LEAST_0, AT_LEAST_1, SHARE = click.IntRange(min=0), click.IntRange(min=1), click.FloatRange(0, 1)

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "-o", "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The run's folder."
    ),
    click.option(
        "--photos",
        "photos_per_step",
        type=AT_LEAST_1,
        default=8,
        show_default=True,
        metavar="N",
        help="Photos a step, in all.",
    ),
    click.option(
        "--accumulate",
        type=AT_LEAST_1,
        default=1,
        show_default=True,
        metavar="N",
        help="Batches that these are split into.",
    ),
    click.option(
        "--objects",
        "objects_per_photo",
        type=AT_LEAST_1,
        default=4,
        show_default=True,
        metavar="N",
        help="Objects of each photo.",
    ),
    click.option(
        "--lr",
        type=click.FloatRange(min=0, min_open=True),
        default=6e-4,
        show_default=True,
        help="Largest learning rate.",
    ),
    click.option(
        "--warmup",
        "warmup_steps",
        type=AT_LEAST_0,
        default=100,
        show_default=True,
        metavar="N",
        help="Steps of rising rate.",
    ),
    click.option(
        "--loss-stride",
        type=click.Choice(["4", "2", "1"]),
        default=str(MASK_STRIDE),
        show_default=True,
        callback=lambda context, option, value: int(value),
        help="Pixels a side of the cells on which masks are judged: finer is slower, and better for small objects.",
    ),
    click.option(
        "--precision",
        default="fp32",
        show_default=True,
        type=click.Choice(["fp32", "bf16"]),
        help="Of the computation; bf16 is twice as fast on CPUs with avx512_bf16 or AMX, and on GPUs.",
    ),
    click.option(
        "--ema", "ema_decay", type=SHARE, default=0.998, show_default=True, help="Decay of the averaged weights."
    ),
    click.option(
        "--held-out",
        "held_out_photos",
        type=AT_LEAST_0,
        default=60,
        show_default=True,
        metavar="N",
        help="For the running figures.",
    ),
    click.option("--stream", is_flag=True, help="Read tars from front to back, each photo once an epoch."),
    click.option("--seed", type=AT_LEAST_0, default=0, show_default=True),
    click.option(
        "--workers",
        type=AT_LEAST_0,
        default=1,
        show_default=True,
        metavar="N",
        help="Loader processes a training process.",
    ),
    click.option(
        "--validate-every",
        type=AT_LEAST_1,
        default=500,
        show_default=True,
        metavar="N",
        help="Steps between two running figures.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the last figures as JSON."),
)


def run_options(command: Command) -> Command:
    """They reach the command as `out`, `workers`, `validate_every`, `as_json` and fields of `train.task.RunConfig`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
