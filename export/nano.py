"""Builds the artifact that the wheel ships, from nano's torch weights.

    python -m sam_edge.export.nano --weights weights/nano.safetensors --out sam_edge/assets/nano

The same as `sam-edge export --to onnx --precision fp16`, with the folder's name and what the manifest says of licence
and data. Needs the export extra.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sam_edge.artifact import Artifact, open_artifact
from sam_edge.errors import ExportError, SamEdgeError
from sam_edge.export.pipeline import Exporter, Request

__all__ = ["build_artifact", "main"]

LICENCE = "Apache-2.0 (code and weights); trained on research data, see MODEL_CARD.md"
TRAINING_DATA = "public research photos and masks; MODEL_CARD.md names the sources and their licences"


def build_artifact(weights: Path, out: Path, *, image_size: int | None = None, command: str = "") -> Artifact:
    """Export, certify and write. Raises CheckpointError, ExportError or OutputError."""
    request = Request(
        model=str(weights),
        out=out.parent,
        folder_name=out.name,
        image_size=image_size,
        licence=LICENCE,
        training_data=TRAINING_DATA,
        command=command,
        measure_speed=False,  # the shipped folder must not depend on how busy a machine was
    )
    with Exporter(request) as exporter:
        row = exporter.export("onnx", "fp16")
    if not row.passed:
        raise ExportError(f"{weights} misses its certificate in ONNX: {'; '.join(row.certificate['missed'])}.")
    return open_artifact(row.path)


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
    try:
        artifact = build_artifact(options.weights, options.out, image_size=options.image_size, command=command)
    except SamEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{artifact.directory}: {artifact.size_bytes / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
