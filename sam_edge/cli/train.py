"""`sam-edge train`: from SA-1B tars and folders to a checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from sam_edge.cli.run_options import AT_LEAST_0, AT_LEAST_1, SHARE, run_options

__all__ = ["command"]

EPILOG = """\b
Examples:
  sam-edge train photos/ --init weights/nano.safetensors --size 512 --steps 2000 -o runs/mine
  torchrun --nproc-per-node 2 -m sam_edge train photos/ -o runs/mine --steps 4000
"""


@click.command("train", epilog=EPILOG, short_help="Train a model from photos with masks.")
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model", default="nano", metavar="NAME|JSON", help="What to train: a name, or a configuration.  [default: nano]"
)
@click.option("--init", default="", metavar="FILE", help="Checkpoint to start from; without it, random weights.")
@click.option(
    "--learn",
    default="all",
    show_default=True,
    type=click.Choice(["all", "iou_predictions"]),
    help="What to train: everything, or how well masks are judged, with the masks as they are.",
)
@click.option(
    "--more-data",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="Further data, of which no photo is held out for the running mIoU.",
)
@click.option("--size", "image_size", default=256, show_default=True, metavar="PX", help="Input side in pixels.")
@click.option("--steps", type=AT_LEAST_1, default=4000, show_default=True, metavar="N", help="Optimiser steps.")
@click.option(
    "--final-lr-share", type=SHARE, default=0.0, show_default=True, help="Learning rate at the end, as a share of --lr."
)
@click.option(
    "--trunk-lr-scale",
    type=click.FloatRange(min=0),
    default=0.15,
    show_default=True,
    help="Share of the learning rate of a trunk from --init.",
)
@click.option(
    "--frozen-blocks",
    type=AT_LEAST_0,
    default=5,
    show_default=True,
    metavar="N",
    help="First blocks of a trunk from --init left fixed.",
)
@click.option(
    "--freeze-depthwise", is_flag=True, help="Leave the trunk's depthwise filters fixed: a third faster on CPUs."
)
@click.option(
    "--near-weight",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Of the cross-entropy around each object.",
)
@click.option(
    "--jaccard-weight", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Of 1 - IoU with soft masks."
)
@click.option(
    "--source", "sources", multiple=True, metavar="NAME=WEIGHT", help="How often a source's photos are drawn."
)
@click.option("--by-objects", is_flag=True, help="Draw a source's photos in proportion to their objects.")
@click.option(
    "--whole-photos",
    "whole_photo_share",
    type=SHARE,
    default=0.35,
    show_default=True,
    help="Share of uncropped photos.",
)
@click.option(
    "--max-zoom",
    type=click.FloatRange(min=1),
    default=2.4,
    show_default=True,
    help="Smallest window: the longest side divided by this.",
)
@click.option(
    "--click-share", type=SHARE, default=0.42, show_default=True, help="Share of first prompts that are one click."
)
@click.option(
    "--centre-clicks", type=SHARE, default=0.5, show_default=True, help="Share of clicks at the innermost pixel."
)
@run_options
def command(
    data: tuple[Path, ...],
    out: Path,
    model: str,
    more_data: tuple[Path, ...],
    sources: tuple[str, ...],
    whole_photo_share: float,
    max_zoom: float,
    click_share: float,
    centre_clicks: float,
    workers: int,
    validate_every: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Train on DATA (folders and tars in SA-1B's format); killed at any moment, the same command continues."""
    from sam_edge.cli.progress import training_progress
    from sam_edge.train.data import AugmentConfig
    from sam_edge.train.loop import TrainConfig, train
    from sam_edge.train.prompting import PromptMix
    from sam_edge.train.students import read_config

    config = TrainConfig(
        model=read_config(Path(model)).to_dict() if model.endswith(".json") else model,
        data=tuple(str(path) for path in data),
        more_data=tuple(str(path) for path in more_data),
        source_weights=dict(_weight(source) for source in sources),
        augment=AugmentConfig(whole_photo_share=whole_photo_share, max_zoom=max_zoom),
        mix=PromptMix().with_click_share(click_share, centre_clicks),
        **options,
    )
    main_process = os.environ.get("RANK", "0") == "0"
    with training_progress(config.steps, visible=main_process) as report:
        path = train(config, out, workers=workers, validate_every=validate_every, report=report)
    last = report.last
    if not main_process:
        return
    if as_json:
        click.echo(json.dumps({"checkpoint": str(path), **last}))
    else:
        box, on_click = last.get("held_out_box_miou"), last.get("held_out_click_miou")
        held_out = "" if box is None else f": held-out mIoU box {box:.3f}, click {on_click:.3f}"
        click.echo(f"wrote {path}{held_out}")


def _weight(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise click.BadParameter(f"{text!r}; expected NAME=WEIGHT, as in coco=0.4", param_hint="--source") from None
