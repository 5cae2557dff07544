"""Option values that several commands read. Callbacks of click: (context, parameter, text) -> value."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["Several", "model_options", "names", "parse_boxes", "parse_points", "this_command"]

Command = TypeVar("Command", bound=Callable[..., Any])


def parse_points(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[tuple[float, float, int], ...]:
    """`X,Y` or `X,Y,LABEL` -> (x, y, label); photo pixels, label 1 (the default) or 0."""
    points = []
    for text in texts:
        parts = text.split(",")
        label = parts[2].strip() if len(parts) == 3 else "1"
        if len(parts) not in (2, 3) or label not in ("0", "1"):
            raise click.BadParameter(f"got {text!r}, expected X,Y for the object or X,Y,0 for what is not the object.")
        points.append((_number(text, parts[0]), _number(text, parts[1]), int(label)))
    return tuple(points)


def parse_boxes(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[tuple[float, ...], ...]:
    """`X0,Y0,X1,Y1` -> four floats; photo pixels."""
    boxes = []
    for text in texts:
        parts = text.split(",")
        if len(parts) != 4:
            raise click.BadParameter(f"got {text!r}, expected four numbers X0,Y0,X1,Y1.")
        boxes.append(tuple(_number(text, part) for part in parts))
    return tuple(boxes)


def _number(text: str, part: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise click.BadParameter(f"got {text!r}, whose part {part!r} is not a number.") from None


def names(allowed: tuple[str, ...]) -> Callable[[click.Context, click.Parameter, str], tuple[str, ...]]:
    """A callback that reads `a,b` as ("a", "b"), each one of `allowed`."""

    def parse(_: click.Context, __: click.Parameter, text: str) -> tuple[str, ...]:
        given = tuple(name.strip() for name in text.split(","))
        unknown = [name for name in given if name not in allowed]
        if unknown:
            raise click.BadParameter(f"got {', '.join(unknown)!r}, expected some of {','.join(allowed)}.")
        return given

    return parse


class Several(click.Option):
    """An option that takes all values up to the next option: `--to onnx tflite`; `--to onnx --to tflite` works, too."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **(settings | {"multiple": True}))

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        super().add_to_parser(parser, ctx)
        for name in self.opts:
            option = parser._long_opt.get(name) or parser._short_opt.get(name)
            option.process = _greedy(option.process, option.prefixes)


def _greedy(process: Callable[[str, Any], None], prefixes: set[str]) -> Callable[[str, Any], None]:
    def take(value: str, state: Any) -> None:
        process(value, state)
        while state.rargs and not state.rargs[0].startswith(tuple(prefixes)):
            process(state.rargs.pop(0), state)

    return take


def model_options(command: Command) -> Command:
    """--model, --runtime and --threads, the same in every command that runs a model."""
    options = (
        click.option(
            "--threads",
            type=click.IntRange(0, 1024),
            default=0,
            show_default=True,
            help="CPU threads; 0: the runtime chooses.",
        ),
        click.option(
            "--runtime",
            default="auto",
            show_default=True,
            metavar="NAME",
            help="auto, onnx, openvino, tflite, coreml or torch.",
        ),
        click.option(
            "--model",
            default="nano",
            show_default=True,
            metavar="NAME|PATH",
            help="A name of `sam-edge models`, an artifact's folder, or a checkpoint (.pth, .pt, .safetensors).",
        ),
    )
    for option in options:
        command = option(command)
    return command


def this_command() -> str:
    """The command line as a record keeps it: a path inside the current folder is part of the recipe, an absolute one
    only tells of this machine."""
    shown = (Path(argument).name if Path(argument).is_absolute() else argument for argument in sys.argv[1:])
    return shlex.join(["sam-edge", *shown])
