"""Builds the artifact that the wheel ships, from nano's torch weights.

    python -m sam_edge.export.nano --weights weights/nano.safetensors --out sam_edge/assets/nano

Needs the export extra. The folder is loaded back through ONNX Runtime before it gets its name: its masks on the example
photos must be those of the weights in torch, or nothing is written.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from sam_edge.artifact import GOLDEN_NAME, Artifact, write_artifact
from sam_edge.contract import LABEL_EMPTY, PromptTensors, Runtime
from sam_edge.errors import ExportError, SamEdgeError
from sam_edge.export.parity import mask_ious
from sam_edge.export.to_onnx import Weights, exported_values, to_onnx_bytes
from sam_edge.golden_vectors import GoldenPhoto, compare, pack, record
from sam_edge.image import Photo, preprocess, read_photo, resize_longest_side
from sam_edge.manifest import Manifest
from sam_edge.model.checkpoints import load_checkpoint
from sam_edge.prompts import build_prompts
from sam_edge.runtimes import ASSETS
from sam_edge.runtimes.with_onnxruntime import OnnxRuntime
from sam_edge.runtimes.with_torch import TorchRuntime

__all__ = ["build_artifact", "main"]

PHOTOS = ASSETS / "photos"
LICENCE = "Apache-2.0 (code and weights); trained on research data, see MODEL_CARD.md"
TRAINING_DATA = "public research photos and masks; MODEL_CARD.md names the sources and their licences"
TOOLS = ("sam-edge", "torch", "onnx", "onnxscript", "onnxslim", "onnxruntime", "numpy")
GOLDEN_SIDE = 256  # pixels: the golden photos travel with every artifact
MIN_MEAN_MASK_IOU = 0.995  # the protocol's bound for a float32 artifact, for each prompt kind
MAX_LOGIT_DIFFERENCE = 1e-3  # of the golden logits: float32 both ways, so that only the order of sums differs


def build_artifact(
    weights_path: Path,
    out: Path,
    photo_paths: list[Path],
    *,
    image_size: int | None = None,
    weights: Weights = "float16",
    command: str = "",
) -> tuple[Artifact, dict[str, list[float]]]:
    """Export, check and write; returns the artifact and the mask IoU with the torch weights of each prompt.

    The first two photos become the golden ones. image_size: input side in pixels, by default the checkpoint's.
    Raises CheckpointError, ImageError, ExportError or OutputError.
    """
    model = load_checkpoint(weights_path, image_size=image_size)
    photos = [read_photo(path) for path in photo_paths]
    if len(photos) < 2:
        raise ExportError(f"got {len(photos)} photos, expected two or more: the load-time check compares two.")
    reference = TorchRuntime(exported_values(model, weights))
    golden = tuple(_golden_photo(reference, resize_longest_side(photo, GOLDEN_SIDE)) for photo in photos[:2])
    manifest = Manifest(
        name=model.spec.name,
        spec=model.spec,
        config=model.config.to_dict(),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        checkpoint_sha256=hashlib.sha256(weights_path.read_bytes()).hexdigest(),
        target="onnx",
        precision="float32",
        weights_stored=weights,
        recipe={},
        graphs={},
        files={},
        tool_versions={"python": ".".join(map(str, sys.version_info[:3])), **{tool: version(tool) for tool in TOOLS}},
        licence=LICENCE,
        training_data=TRAINING_DATA,
        command=command,
    )
    ious: dict[str, list[float]] = {}

    def check(draft: Artifact) -> None:
        runtime = OnnxRuntime(draft)
        _check_golden(runtime, golden)
        ious.update(mask_ious(TorchRuntime(model), runtime, photos))
        for kind, values in ious.items():
            mean = sum(values) / max(len(values), 1)
            if not mean >= MIN_MEAN_MASK_IOU:
                raise ExportError(
                    f"{kind} masks of the export have mean IoU {mean:.4f} with those of {weights_path} ({len(values)} "
                    f'prompts), expected {MIN_MEAN_MASK_IOU}. If weights="float32" passes, rounding is the cause.'
                )

    files = to_onnx_bytes(model, weights=weights) | {GOLDEN_NAME: pack(golden)}
    return write_artifact(out, manifest, files, check), ious


def _check_golden(runtime: Runtime, golden: tuple[GoldenPhoto, ...]) -> None:
    difference = compare(runtime, golden)
    if not difference.logits <= MAX_LOGIT_DIFFERENCE:
        raise ExportError(
            f"logits of the exported graphs differ from torch by {difference.logits:.2g}, expected at most "
            f"{MAX_LOGIT_DIFFERENCE:g}. The exporter has changed: use the library versions of the export extra."
        )


def _golden_photo(runtime: Runtime, photo: Photo) -> GoldenPhoto:
    """A box; a click; a click with a background click; a click with the box's mask. Three slots each, some empty."""
    spec, (height, width) = runtime.spec, photo.shape[:2]
    centre, corner = [0.5 * width, 0.5 * height], [0.05 * width, 0.05 * height]
    box = build_prompts(spec, (height, width), boxes=[[0.2 * width, 0.15 * height, 0.8 * width, 0.85 * height]])
    click = build_prompts(spec, (height, width), point_coords=[[centre]], point_labels=[[1]])
    both = build_prompts(spec, (height, width), point_coords=[[centre, corner]], point_labels=[[1, 0]])
    box_logits = runtime.decode(runtime.encode(preprocess(photo, spec)[0]), box).low_res_masks[:, :1]
    again = PromptTensors(click.point_coords, click.point_labels, box_logits, np.ones(1, np.float32))
    return record(runtime, photo, _stack([box, click, both, again]))


def _stack(prompts: list[PromptTensors]) -> PromptTensors:
    """Prompts of one row each in one batch; shorter ones are filled with empty slots."""
    slots = max(prompt.point_labels.shape[1] for prompt in prompts)
    coords, labels = [], []
    for prompt in prompts:
        missing = slots - prompt.point_labels.shape[1]
        coords.append(np.pad(prompt.point_coords, ((0, 0), (0, missing), (0, 0))))
        labels.append(np.pad(prompt.point_labels, ((0, 0), (0, missing)), constant_values=LABEL_EMPTY))
    masks = [prompt.mask_input for prompt in prompts]
    has_masks = [prompt.has_mask_input for prompt in prompts]
    return PromptTensors(*(np.concatenate(rows) for rows in (coords, labels, masks, has_masks)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sam_edge.export.nano", description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="a safetensors file of nano")
    parser.add_argument("--out", type=Path, required=True, help="the artifact's folder; an older one is replaced")
    parser.add_argument("--image-size", type=int, help="input side in pixels; by default the one of the weights")
    options = parser.parse_args(arguments)
    # A path inside the checkout is part of the recipe; an absolute one only tells of this machine.
    shown = [str(path) if not path.is_absolute() else path.name for path in (options.weights, options.out)]
    command = f"python -m sam_edge.export.nano --weights {shown[0]} --out {shown[1]}"
    if options.image_size is not None:
        command += f" --image-size {options.image_size}"
    photos = sorted(PHOTOS.glob("*.jpg"))
    try:
        artifact, ious = build_artifact(
            options.weights, options.out, photos, image_size=options.image_size, command=command
        )
    except SamEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for kind, values in ious.items():
        print(f"{kind}: mask IoU with torch mean {np.mean(values):.4f}, min {min(values):.4f}, {len(values)} prompts")
    print(f"{artifact.directory}: {artifact.size_bytes / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
