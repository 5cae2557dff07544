"""`sam-edge distill`: a small student from a large teacher and photos."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sam_edge.cli.arguments import Several
from sam_edge.cli.run_options import AT_LEAST_0, AT_LEAST_1, SHARE, run_options

__all__ = ["command"]

EXAMPLES = """\b
Examples:
  sam-edge distill --teacher sam_vit_b_01ec64.pth --student nano_sam --data photos/ -o runs/mine
  sam-edge distill --teacher mobile_sam.pt --student my_student.json --stage masks --data sa1b/ --stream -o runs/mine
  torchrun --nproc-per-node 8 -m sam_edge distill --teacher sam_vit_h_4b8939.pth --student vit_t --data sa1b/ -o runs/t
"""


@click.command("distill", epilog=EXAMPLES, short_help="Teach a small student what a large model does.")
@click.option("--teacher", required=True, metavar="NAME|FILE", help="The model to learn from, as a checkpoint's file.")
@click.option(
    "--student",
    required=True,
    metavar="NAME|FILE",
    help="nano_sam, vit_t, another name of the registry, a checkpoint, or a configuration as JSON.",
)
@click.option(
    "--data", cls=Several, required=True, metavar="DIR...", help="Photos: folders and tars; true masks are used."
)
@click.option(
    "--stage",
    default="both",
    show_default=True,
    type=click.Choice(["embeddings", "masks", "both"]),
    help="embeddings teaches the encoder, masks all of the student, prompts in the loop.",
)
@click.option("--size", type=int, metavar="PX", help="Input side of both models.  [default: their own]")
@click.option("--init", default="", metavar="FILE", help="Checkpoint whose tensors the student takes where they fit.")
@click.option(
    "--cache", type=click.Path(path_type=Path), metavar="DIR", help="The teacher's embeddings.  [default: in the run]"
)
@click.option(
    "--steps", type=AT_LEAST_1, default=4000, show_default=True, metavar="N", help="Optimiser steps of embeddings."
)
@click.option(
    "--mask-steps", type=AT_LEAST_1, default=2000, show_default=True, metavar="N", help="Optimiser steps of masks."
)
@click.option(
    "--trunk-lr-scale",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Share of it for a pretrained trunk.",
)
@click.option(
    "--frozen-blocks", type=AT_LEAST_0, default=0, show_default=True, metavar="N", help="First blocks of it left fixed."
)
@click.option(
    "--truth-share",
    default=0.3,
    show_default=True,
    type=SHARE,
    help="Share of the loss against true masks, where there are some: the teacher is not always right.",
)
@run_options
def command(
    teacher: str,
    student: str,
    data: tuple[str, ...],
    out: Path,
    stage: str,
    size: int | None,
    init: str,
    cache: Path | None,
    steps: int,
    mask_steps: int,
    workers: int,
    validate_every: int,
    as_json: bool,
    **settings: Any,
) -> None:
    """Distill a teacher into a student with your photos; killed at any moment, the same command continues.

    The student is OUT/student.safetensors: export it with `sam-edge export --model`.
    """
    from sam_edge.cli.progress import encoding_progress, training_progress
    from sam_edge.files import write_bytes_atomically
    from sam_edge.train.distill import STAGES, distill_stage

    main_process = os.environ.get("RANK", "0") == "0"
    lengths = dict(zip(STAGES, (steps, mask_steps), strict=True))
    figures: dict[str, Any] = {}
    for name in STAGES if stage == "both" else (stage,):
        with encoding_progress(main_process) as on_photo, training_progress(lengths[name], main_process) as report:
            path = distill_stage(
                name,
                teacher,
                student,
                out,
                settings={"data": tuple(data), "steps": lengths[name], **settings},
                size=size,
                cache=cache,
                init=init,
                workers=workers,
                validate_every=validate_every,
                say=_say(name) if main_process else lambda line: None,
                report=report,
                on_photo=on_photo,
            )
        figures[name] = report.last
    if not main_process:
        return
    result = out / "student.safetensors"
    write_bytes_atomically(result, path.read_bytes())
    if as_json:
        click.echo(json.dumps({"checkpoint": str(result), **figures}))
    else:
        held_out = [
            f"{label} {figures[name][key]:.3f}"
            for name, key, label in (
                ("embeddings", "held_out_cosine", "embeddings' cosine"),
                ("masks", "held_out_teacher_iou", "IoU with the teacher"),
            )
            if key in figures.get(name, {})
        ]
        click.echo(f"wrote {result}" + (f": held-out {', '.join(held_out)}" if held_out else ""))


def _say(stage: str) -> Callable[[str], None]:
    return lambda line: click.echo(f"{stage}: {line}", err=True)
