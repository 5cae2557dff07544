"""The last step of making nano: training checkpoints as the float16 file that is released and exported.

`python -m sam_edge.train.release runs/last.safetensors -o weights/nano.safetensors --size 512`

Several checkpoints of one line of training are averaged, which costs nothing at run time and is often better than each
(model soups: Wortsman et al., arXiv 2203.05482). Frozen scales are multiplied into their convolutions and every value
is rounded to float16, so that the released PyTorch file and what is exported from it hold the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from sam_edge.model.checkpoints import load_model, save_checkpoint, take_over
from sam_edge.model.registry import build_model
from sam_edge.model.sam import Sam
from sam_edge.model.scaled_conv import fold_scales

__all__ = ["averaged", "recut", "released", "scaled"]


def released(model: Sam) -> Sam:
    """The model with its scales multiplied in and its values rounded to float16, changed in place and returned."""
    with torch.no_grad():
        for tensor in (*scaled(model).parameters(), *model.buffers()):
            tensor.copy_(tensor.half())
    return model


def averaged(models: Sequence[Sam]) -> Sam:
    """The mean of the models' values, in the first, changed in place; scales must have been multiplied in before."""
    first, states = models[0], [model.state_dict() for model in models]
    with torch.no_grad():
        for name, tensor in first.state_dict().items():
            tensor.copy_(torch.stack([state[name] for state in states]).mean(0))
    return first


def scaled(model: Sam) -> Sam:
    """The model with its scales multiplied in, changed in place and returned."""
    fold_scales(model)
    return model


def recut(model: Sam, box_cut: float) -> Sam:
    """The model with the masks of its box prompts cut at another logit than 0, changed in place and returned.

    Where an outline is uncertain, cutting at probability one half does not give the best IoU. `box_cut` is to be chosen
    on photos held out of the training data. Clicks and corrections are left alone: they gain next to nothing, and
    corrections of a mask that is too large lose (docs/ablations.md).
    """
    decoder: Any = model.mask_decoder
    with torch.no_grad():
        decoder.box_bias.sub_(box_cut / decoder.config.logit_scale)
    return model


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("-o", "out", type=click.Path(path_type=Path), required=True)
@click.option("--model", "name", default="nano", show_default=True, help="Configuration to release it under.")
@click.option("--size", "image_size", default=512, show_default=True, help="Input side in pixels.")
@click.option("--box-cut", default=0.0, show_default=True, help="Logit at which masks of boxes are cut from now on.")
def main(checkpoints: tuple[Path, ...], out: Path, name: str, image_size: int, box_cut: float) -> None:
    """Write the mean of CHECKPOINTS as a release."""
    models = []
    for path in checkpoints:
        models.append(build_model(name, image_size=image_size))
        take_over(models[-1], scaled(load_model(path)).state_dict(), str(path))
    model = averaged(models)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(released(recut(model, box_cut)), out, dtype=torch.float16)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
