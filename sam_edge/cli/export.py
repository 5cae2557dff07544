"""`sam-edge export`: one checkpoint to certified files for other runtimes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam_edge.cli.arguments import Several, this_command

if TYPE_CHECKING:
    from sam_edge.export.pipeline import Exporter, Row
    from sam_edge.export.plan import Sizes
    from sam_edge.quantize.recipe import Recipe

EXAMPLES = """\b
Examples:
  sam-edge export --model nano --to onnx tflite --precision fp32 fp16 -o out
  sam-edge export --model sam_vit_b_01ec64.pth --to onnx openvino --precision fp32 int8 --calibrate photos -o out
  sam-edge export --to openvino --precision int8 --calibrate photos --search labelled -o out"""
TARGET_NAMES = ("onnx", "openvino", "coreml", "tflite")
KINDS = ("box", "click", "click3", "mask")
EXIT_MISSED = 1


@click.command("export", epilog=EXAMPLES, short_help="Export to ONNX, OpenVINO, Core ML and TFLite, certified.")
@click.option("--model", default="nano", show_default=True, metavar="NAME|PATH", help="nano, or a checkpoint's file.")
@click.option(
    "--to", "targets", cls=Several, default=["onnx"], metavar="TARGET...", help="onnx openvino coreml tflite."
)
@click.option(
    "--precision",
    "precisions",
    cls=Several,
    default=["fp32"],
    metavar="NAME...",
    help="fp32 fp16 int8 int8-dynamic int8-weights int4-weights; what a target does not have is left out.",
)
@click.option("-o", "--output", "out", required=True, metavar="DIR", help="A folder for each artifact goes in here.")
@click.option("--size", type=int, metavar="PX", help="Input side: 256, 384, 512, 768, 1024.  [default: the model's]")
@click.option("--calibrate", metavar="DIR", help="Photos for int8: 16 to 64 of the kind the model will see.")
@click.option("--data", multiple=True, metavar="DIR", help="Labelled photos (SA-1B's format) for the certificate.")
@click.option("--photos", default=0, metavar="N", help="Use N of the --data photos, drawn evenly.  [default: all]")
@click.option(
    "--search",
    metavar="DIR",
    help="Labelled photos, others than --data, on which to find what must stay float in int8; writes a recipe.",
)
@click.option(
    "--recipe", "recipe_files", multiple=True, metavar="FILE", help="A recipe to use; its target and precision."
)
@click.option(
    "--tflite-prompts", metavar="N,...", help="Numbers of prompts that a TFLite decoder takes at once.  [default: 1]"
)
@click.option(
    "--tflite-points", metavar="N,...", help="Numbers of points a prompt that it takes; a box is 2.  [default: 8,32]"
)
@click.option(
    "--photo-input",
    is_flag=True,
    help="Encoders of onnx and openvino take the photo itself, uint8 of any size: resizing is in the graph.",
)
@click.option("--threads", default=2, show_default=True, help="CPU threads for the certificate.")
@click.option("--allow-fail", is_flag=True, help="Keep an artifact that misses its bounds, under a name with .failed.")
@click.option("--no-speed", is_flag=True, help="Do not time the exported encoder against its fp32 form.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of the table.")
def command(
    model: str,
    targets: Sequence[str],
    precisions: Sequence[str],
    out: str,
    size: int | None,
    calibrate: str | None,
    data: tuple[str, ...],
    photos: int,
    search: str | None,
    recipe_files: tuple[str, ...],
    tflite_prompts: str | None,
    tflite_points: str | None,
    photo_input: bool,
    threads: int,
    allow_fail: bool,
    no_speed: bool,
    as_json: bool,
) -> int:
    """Export a model to other runtimes, and certify every file: its masks are compared with those of float32 torch.

    An artifact that misses a bound of its precision is not written, and the exit status is 1.
    """
    from sam_edge.export import check_installed

    check_installed()
    from sam_edge.export.pipeline import Exporter, Request

    jobs = _jobs(targets, precisions)
    recipes = _recipes(model, jobs, recipe_files)
    sizes = _sizes(jobs, tflite_prompts, tflite_points)
    if photo_input:
        _check_photo_input(jobs)
    request = Request(
        model=model,
        out=Path(out),
        image_size=size,
        calibrate=None if calibrate is None else Path(calibrate),
        data=tuple(Path(path) for path in data),
        photos=photos,
        threads=threads,
        allow_fail=allow_fail,
        measure_speed=not no_speed,
        recipes=recipes,
        sizes=sizes,
        photo_input=photo_input,
        command=this_command(),
    )
    rows = []
    with Exporter(request, _progress) as exporter:
        for name, why in exporter.calibration.skipped.items() if calibrate is not None else ():
            click.echo(f"skipped {name}: {why}", err=True)
        for target, precision in jobs:
            if search is not None and precision == "int8":
                recipes[target, precision] = _searched(exporter, target, Path(search), Path(out))
            rows.append(exporter.export(target, precision))
            _report(rows[-1])
    if as_json:
        click.echo(json.dumps([row.to_dict() for row in rows], allow_nan=False))
    else:
        click.echo(_table(rows))
    return 0 if all(row.passed for row in rows) or allow_fail else EXIT_MISSED


def _check_photo_input(jobs: Sequence[tuple[str, str]]) -> None:
    from sam_edge.errors import ExportError
    from sam_edge.export.targets import PHOTO_INPUT

    others = sorted({target for target, _ in jobs} - set(PHOTO_INPUT))
    if others:
        raise ExportError(
            f"--photo-input was given with {', '.join(others)}, expected {' or '.join(PHOTO_INPUT)}: other formats fix "
            "the sizes of their inputs. Export those on their own."
        )


def _jobs(targets: Sequence[str], precisions: Sequence[str]) -> list[tuple[str, str]]:
    """Every target with every precision it has; an error for what is unknown, and where nothing is left."""
    from sam_edge.errors import ExportError
    from sam_edge.export.targets import find_target
    from sam_edge.quantize.recipe import PRECISIONS

    jobs, refusals = [], []
    for target in dict.fromkeys(targets):
        for precision in dict.fromkeys(precisions):
            try:
                find_target(target).check(precision)
                jobs.append((target, precision))
            except ExportError as error:
                refusals.append(error)
    if not jobs or set(precisions) - set(PRECISIONS) or set(targets) - set(TARGET_NAMES):
        raise refusals[0]
    for refusal in refusals:
        click.echo(f"left out: {refusal}", err=True)
    return jobs


def _recipes(model: str, jobs: Sequence[tuple[str, str]], files: Sequence[str]) -> dict[tuple[str, str], Recipe]:
    """The recipes given, and for nano the ones that come with it."""
    from sam_edge.export.recipes import packaged_recipes
    from sam_edge.quantize.recipe import read_recipe

    found = packaged_recipes(model)
    for file in files:
        recipe = read_recipe(file)
        if (recipe.target, recipe.precision) not in jobs:
            raise click.UsageError(
                f"{file} is for {recipe.target} in {recipe.precision}; --to and --precision do not ask for that."
            )
        found[recipe.target, recipe.precision] = recipe
    return found


def _sizes(jobs: Sequence[tuple[str, str]], prompts: str | None, points: str | None) -> Sizes:
    """What TFLite's decoder takes at once, as far as it is given."""
    from sam_edge.errors import ExportError
    from sam_edge.export.plan import Sizes

    given = {name: text for name, text in (("prompts", prompts), ("points", points)) if text is not None}
    if given and "tflite" not in (target for target, _ in jobs):
        options = " and ".join(f"--tflite-{name}" for name in given)
        raise ExportError(f"{options} came without tflite, expected `--to tflite`. Add it, or leave them out.")
    return Sizes(**{name: _numbers(f"--tflite-{name}", text) for name, text in given.items()})


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """`1,16` -> (1, 16)."""
    from sam_edge.errors import ExportError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ExportError(
            f"{option} is {text!r:.60}, expected whole numbers such as 1,16. Write them with commas, without spaces."
        ) from None


def _searched(exporter: Exporter, target: str, photos: Path, out: Path) -> Recipe:
    from sam_edge.files import write_bytes_atomically

    def on_measured(done: int, most: int) -> None:
        click.echo(f"  {target} int8: measured {done} of at most {most}", err=True)

    recipe = exporter.search(target, photos, on_measured=on_measured)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{exporter.model.spec.name}-{target}-int8.recipe.json"
    write_bytes_atomically(path, recipe.to_json().encode())
    kept = ", ".join(recipe.float_units) or "nothing"
    click.echo(f"  {target} int8: stays float: {kept}; wrote {path}", err=True)
    return recipe


def _progress(target: str, precision: str, stage: str) -> None:
    click.echo(f"{target} {precision}: {stage} ...", err=True)


def _report(row: Row) -> None:
    state = f"{row.bytes / 1e6:.2f} MB, {row.seconds:.0f} s"
    if row.passed:
        click.echo(f"{row.target} {row.precision}: passed, {state} -> {row.path}", err=True)
        return
    kept = f"kept as {row.path}" if row.path else "not written; --allow-fail keeps it"
    click.echo(f"{row.target} {row.precision}: MISSED ({kept})", err=True)
    for line in row.certificate["missed"]:
        click.echo(f"  {line}", err=True)


def _figure(value: float | None) -> str:
    return "no number" if value is None else f"{value:.4f}"


def _least(values: Sequence[float | None]) -> float | None:
    """None, a figure that is no number, is less than any."""
    numbers = [value for value in values if value is not None]
    return min(numbers) if len(numbers) == len(values) else None


def _table(rows: Sequence[Row]) -> str:
    """Markdown that also reads in a terminal: format, precision, bytes, mask IoU by prompt kind, latency."""
    head = ["format", "precision", "MB", *(f"{kind} IoU" for kind in KINDS), "least retention", "encode ms", "click ms"]
    body = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for row in rows:
        kinds: dict[str, Any] = row.certificate["kinds"]
        speed = row.certificate.get("speed")
        body.append(
            [
                row.target,
                row.precision + ("" if row.passed else " MISSED"),
                f"{row.bytes / 1e6:.2f}",
                *(_figure(kinds[kind]["mask_iou_mean"]) if kind in kinds else "" for kind in KINDS),
                _figure(_least([kind["retention"] for kind in kinds.values()])),
                *([f"{speed['encode_ms']:.1f}", f"{speed['decode_ms']:.1f}"] if speed else ["", ""]),
            ]
        )
    widths = [max(len(line[i]) for line in body) for i in range(len(head))]
    lines = []
    for line in body:
        cells = [
            cell.ljust(w) if cell != "---" and cell != "---:" else cell for cell, w in zip(line, widths, strict=True)
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
