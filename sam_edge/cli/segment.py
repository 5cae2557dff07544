"""`sam-edge segment`: prompts on one photo to an overlay, masks, cutouts or run lengths."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from sam_edge.cli.arguments import model_options, parse_boxes, parse_points
from sam_edge.cli.bars import points_progress
from sam_edge.cli.outputs import FORMATS, default_output, output_paths, write_masks

if TYPE_CHECKING:
    from sam_edge.contract import Float32, ModelSpec, Runtime
    from sam_edge.image import Photo

EXAMPLES = """\b
Examples:
  sam-edge segment photo.jpg --point 320,240
  sam-edge segment photo.jpg --box 40,60,300,420 --format cutout -o dog.png
  sam-edge segment photo.jpg --everything --json"""
STABILITY_OFFSET = 1.0  # segment-anything's, in logits
MASKS_PRINTED = 8


@dataclass(frozen=True)
class Prompts:
    """What the user asked for, in photo pixels."""

    points: tuple[tuple[float, float, int], ...]
    boxes: tuple[tuple[float, ...], ...]
    mask_file: str | None
    everything: bool
    multimask: bool
    refine: bool

    def check(self) -> None:
        """Raise UsageError for what cannot go together."""
        given = bool(self.points or self.boxes or self.mask_file)
        if not given and not self.everything:
            raise click.UsageError(
                "nothing says what to segment; expected --point, --box, --mask or --everything. "
                "Example: sam-edge segment photo.jpg --point 320,240"
            )
        if self.everything and (given or self.multimask):
            raise click.UsageError("--everything takes no prompt and no --multimask. Leave one of them out.")
        if self.refine and (self.everything or self.multimask or self.mask_file):
            raise click.UsageError("--refine goes with --point and --box alone. Leave the other option out.")
        if len(self.boxes) > 1 and (self.points or self.mask_file):
            raise click.UsageError("--point and --mask go with at most one --box. Run once for each box.")


@dataclass
class Result:
    """Masks as the JSON output has them, and the time of each stage; a stage that was not measured is absent."""

    masks: list[dict[str, Any]] = field(default_factory=list)
    timings_ms: dict[str, float] = field(default_factory=dict)

    def add_ms(self, stage: str, duration_ms: float) -> None:
        self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + duration_ms


@click.command("segment", epilog=EXAMPLES, short_help="Cut an object out of a photo.")
@click.argument("image")
@click.option(
    "--point",
    "points",
    multiple=True,
    callback=parse_points,
    metavar="X,Y[,0|1]",
    help="A click on the object, or with ,0 beside it. All are one prompt.",
)
@click.option(
    "--box",
    "boxes",
    multiple=True,
    callback=parse_boxes,
    metavar="X0,Y0,X1,Y1",
    help="A box around an object; each gives its own mask.",
)
@click.option(
    "--mask", "mask_file", metavar="FILE", help="A rough mask to start from: white on black, the photo's size."
)
@click.option("--everything", is_flag=True, help="Segment all that can be found, without a prompt.")
@click.option("--multimask", is_flag=True, help="Three masks a prompt instead of one, for an ambiguous click.")
@click.option("--refine", is_flag=True, help="Look again, closer, at each object: finer masks for one more encode.")
@click.option(
    "-o", "--output", metavar="PATH", help="Where to write.  [default: NAME.FORMAT.png in the current folder]"
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(FORMATS)),
    default="overlay",
    show_default=True,
    help="The photo with the masks drawn in; black and white; the object alone on transparency; COCO's run lengths.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON; files are then written only with -o.")
@model_options
def command(
    image: str,
    points: tuple[tuple[float, float, int], ...],
    boxes: tuple[tuple[float, ...], ...],
    mask_file: str | None,
    everything: bool,
    multimask: bool,
    refine: bool,
    output: str | None,
    format_name: str,
    as_json: bool,
    model: str,
    runtime: str,
    threads: int,
) -> None:
    """Cut an object out of IMAGE by clicks, a box or a rough mask.

    Coordinates are pixels of the photo, x first, from the top-left corner.
    """
    prompts = Prompts(points, boxes, mask_file, everything, multimask, refine)
    prompts.check()
    destination = None if as_json and output is None else output or default_output(image, format_name)
    if destination is not None:
        output_paths(destination, format_name, 1, image)  # a wrong name is noticed before the work, not after

    from sam_edge.image import read_photo

    photo = read_photo(image)
    loaded, result = _load(model, runtime, threads)
    if everything:
        _segment_everything(loaded, photo, result)
    else:
        _segment_prompts(loaded, photo, prompts, result)

    written = []
    if destination is not None:
        one_picture = format_name in ("overlay", "rle") and not multimask
        count = 1 if one_picture else len(result.masks)
        paths = output_paths(destination, format_name, count, image)
        written = write_masks(paths, format_name, photo, result.masks, points=points, boxes=boxes)
    if as_json:
        files = {"files": [str(path) for path in written]} if written else {}
        height, width = photo.shape[:2]
        head = {"model": loaded.spec.name, "runtime": loaded.name, "image": {"width": width, "height": height}}
        body = {"timings_ms": _rounded(result.timings_ms), "masks": result.masks, **files}
        click.echo(json.dumps({**head, **body}, allow_nan=False))
    else:
        for line in _summary(result, [str(path) for path in written]):
            click.echo(line)


def _load(model: str, runtime: str, threads: int) -> tuple[Runtime, Result]:
    start = perf_counter()
    from sam_edge.runtimes import load

    loaded = load(model, runtime, threads=threads)
    return loaded, Result(timings_ms={"load": 1e3 * (perf_counter() - start)})


def _segment_prompts(runtime: Runtime, photo: Photo, prompts: Prompts, result: Result) -> None:
    """One prompt, or one a box: one after the other, so that full-size logits exist for one prompt at a time."""
    import numpy as np

    from sam_edge.predictor import SamPredictor
    from sam_edge.second_look import SecondLook

    predictor = SamPredictor(runtime)
    predictor.set_image(photo)
    for stage in ("preprocess", "encode"):
        result.add_ms(stage, predictor.timings_ms[stage])
    coords = np.array([point[:2] for point in prompts.points]) if prompts.points else None
    labels = np.array([point[2] for point in prompts.points]) if prompts.points else None
    mask_input = None if prompts.mask_file is None else _read_mask_prompt(prompts.mask_file, photo, runtime.spec)
    for box in prompts.boxes or (None,):
        logits, ious, _ = predictor.predict(
            coords, labels, box, mask_input, multimask_output=prompts.multimask, return_logits=True
        )
        for stage in ("decode", "postprocess"):
            result.add_ms(stage, predictor.timings_ms[stage])
        if prompts.refine:
            start = perf_counter()
            logits = SecondLook(runtime, photo).refine(logits[0], coords, labels, box)[None]
            result.add_ms("second_look", 1e3 * (perf_counter() - start))
        start = perf_counter()
        result.masks += [_described(of_mask, float(iou)) for of_mask, iou in zip(logits, ious, strict=True)]
        result.add_ms("postprocess", 1e3 * (perf_counter() - start))


def _read_mask_prompt(path: str, photo: Photo, spec: ModelSpec) -> Float32:
    """A mask picture as `mask_input` (1, S/4, S/4). Raises ImageError, PromptError."""
    from sam_edge.errors import PromptError
    from sam_edge.evaluate.simulate import mask_prompt
    from sam_edge.image import read_photo, resized_size

    picture = read_photo(path)
    height, width = photo.shape[:2]
    if picture.shape != photo.shape:
        raise PromptError(
            f"{path} is {picture.shape[1]} x {picture.shape[0]} pixels, expected {width} x {height} like the photo. "
            "Give a mask of the photo's size, white on black."
        )
    return mask_prompt(picture.mean(axis=2) > 127, resized_size((height, width), spec.image_size), spec.mask_size)


def _described(logits: Float32, predicted_iou: float) -> dict[str, Any]:
    """A mask's logits (H, W) as the JSON output has it; a stability score without any pixel is null."""
    from sam_edge.boxes import box_xyxy_to_xywh, mask_to_box
    from sam_edge.contract import MASK_THRESHOLD
    from sam_edge.masks import stability_score
    from sam_edge.rle import mask_to_rle, rle_area, rle_to_coco

    mask = logits > MASK_THRESHOLD
    rle = mask_to_rle(mask)
    stability = float(stability_score(logits, MASK_THRESHOLD, STABILITY_OFFSET))
    return {
        "predicted_iou": round(predicted_iou, 5),
        "stability_score": round(stability, 5) if stability == stability else None,
        "area": rle_area(rle),
        "bbox": box_xyxy_to_xywh(mask_to_box(mask)).tolist(),
        "segmentation": rle_to_coco(rle),
    }


def _segment_everything(runtime: Runtime, photo: Photo, result: Result) -> None:
    from sam_edge.everything import SamAutomaticMaskGenerator

    generator = SamAutomaticMaskGenerator(
        runtime,
        pred_iou_thresh=runtime.spec.pred_iou_thresh,
        stability_score_thresh=runtime.spec.stability_score_thresh,
        output_mode="coco_rle",
    )
    with points_progress() as progress:
        found = generator.generate(photo, progress)
    for stage, duration_ms in generator.timings_ms.items():
        result.add_ms(stage, duration_ms)
    keys = ("predicted_iou", "stability_score", "area", "bbox", "segmentation")
    result.masks += [{key: mask[key] for key in keys} for mask in found]


def _summary(result: Result, written: list[str]) -> Iterator[str]:
    """What a person wants to know, line by line."""
    yield from (f"wrote {path}" for path in written)
    for number, mask in enumerate(result.masks[:MASKS_PRINTED], 1):
        stability = "" if mask["stability_score"] is None else f", stability {mask['stability_score']:.2f}"
        yield f"mask {number}: {mask['area']:,} px, predicted IoU {mask['predicted_iou']:.2f}{stability}"
    if len(result.masks) > MASKS_PRINTED:
        yield f"and {len(result.masks) - MASKS_PRINTED} more masks"
    if not result.masks:
        yield "no mask was found"
    yield "time: " + ", ".join(f"{stage} {duration:.0f} ms" for stage, duration in result.timings_ms.items())


def _rounded(timings_ms: dict[str, float]) -> dict[str, float]:
    return {stage: round(duration, 3) for stage, duration in timings_ms.items()}
