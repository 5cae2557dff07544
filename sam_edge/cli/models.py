"""`sam-edge models`: what can be run, and what is here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sam_edge.runtimes import ModelInfo

EXAMPLES = """\b
Example:
  sam-edge models --json"""
HEAD = ("model", "parameters", "input", "size", "on disk", "measured mIoU, %", "licence")


@click.command("models", epilog=EXAMPLES, short_help="List the models.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of the table.")
def command(as_json: bool) -> None:
    """List the models: parameters, input side, size, measured quality, licence, and whether they are on disk."""
    from sam_edge.runtimes import available_models

    models = available_models()
    if as_json:
        click.echo(json.dumps([_record(model) for model in models]))
        return
    for line in _aligned([HEAD, *(_row(model) for model in models)]):
        click.echo(line)
    missing = [f"{model.checkpoint} ({model.name})" for model in models if not model.on_disk]
    if missing:
        click.echo(
            f"\nNot here: {', '.join(missing)}. Download a checkpoint from its authors and give its path to --model."
        )


def _record(model: ModelInfo) -> dict[str, Any]:
    """One model; quality and checkpoint are absent where there is none."""
    return {
        "name": model.name,
        "parameters": model.parameters,
        "image_size_px": model.image_size,
        "size_bytes": model.bytes,
        "licence": model.licence,
        "on_disk": model.on_disk,
        **({"quality": model.quality} if model.quality else {}),
        **({"checkpoint": model.checkpoint} if model.checkpoint else {}),
    }


def _row(model: ModelInfo) -> tuple[str, ...]:
    quality = ", ".join(
        f"{name.removesuffix('_miou_percent').replace('_', ' ')} {value:.1f}"
        for name, value in model.quality.items()
        if isinstance(value, int | float)
    )
    return (
        model.name,
        f"{model.parameters / 1e6:.2f} M",
        f"{model.image_size} px",
        f"{model.bytes / 1e6:,.1f} MB",
        "yes" if model.on_disk else "no",
        quality or "not measured",
        model.licence,
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
