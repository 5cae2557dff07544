"""A zip for a phone or a board: an artifact, inputs, what they must give, and the commands of the runtimes' own tools.

artifact/            the folder as it is; its golden photos judge the masks
inputs/*.bin         one golden photo and its box, as the two graphs take them: raw numbers, little-endian
expected/*.bin       what the graphs gave on the machine that made the kit
kit.json             what each file is, and the threads of the commands
README.md            the commands; what they print goes into results/
results/             empty; `sam-edge report KIT` reads it
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_edge.artifact import MANIFEST_NAME, Artifact, open_artifact
from sam_edge.benchmarks.matrix import artifact_precision
from sam_edge.contract import (
    HIGH_RES_FEATURES,
    IMAGE_EMBEDDINGS,
    LABEL_EMPTY,
    PREDICTION_OUTPUTS,
    PROMPT_INPUTS,
    PromptTensors,
)
from sam_edge.errors import require
from sam_edge.files import write_bytes_atomically
from sam_edge.image import preprocess
from sam_edge.runtimes import load_to_verify

__all__ = ["KIT_NAME", "KIT_SCHEMA", "write_kit"]

Tensors = dict[str, NDArray[Any]]

KIT_SCHEMA = "sam-edge/device-kit/1"
KIT_NAME = "kit.json"
TEMPLATES = Path(__file__).parent / "templates"
GOLDEN_ROW = 0  # of the golden photo's prompts: a box


def write_kit(directory: str | Path, out: str | Path, threads: int = 4) -> Path:
    """Write the kit of an artifact's folder. Raises ArtifactError, OutputError, RuntimeUnavailable."""
    artifact = open_artifact(directory)
    jinja = require("jinja2", extra="bench")
    inputs, expected = _tensors(artifact)
    kit = _describe(artifact, inputs, expected, threads)
    files = {f"artifact/{name}": artifact.read_file(name) for name in artifact.manifest.files}
    files[f"artifact/{MANIFEST_NAME}"] = (Path(directory) / MANIFEST_NAME).read_bytes()
    for folder, tensors in (("inputs", inputs), ("expected", expected)):
        files |= {f"{folder}/{name}.bin": _little_endian(array) for name, array in tensors.items()}
    files[KIT_NAME] = json.dumps(kit, indent=2).encode()
    environment = jinja.Environment(loader=jinja.FileSystemLoader(TEMPLATES), undefined=jinja.StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    files["README.md"] = environment.get_template("kit.md.j2").render(**kit).encode()
    files["results/device.txt"] = b""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(f"kit/{name}"), files[name], zipfile.ZIP_DEFLATED)
    write_bytes_atomically(out, buffer.getvalue())
    return Path(out)


def _tensors(artifact: Artifact) -> tuple[Tensors, Tensors]:
    """Inputs and outputs of both graphs for the first golden photo and its box, computed here; the encoder's input is
    the first."""
    runtime = load_to_verify(artifact)
    golden = artifact.read_golden()[0]
    image, _ = preprocess(golden.image, artifact.manifest.spec)
    row = slice(GOLDEN_ROW, GOLDEN_ROW + 1)
    prompts = _filled(
        PromptTensors(
            golden.prompts.point_coords[row],
            golden.prompts.point_labels[row],
            golden.prompts.mask_input[row],
            golden.prompts.has_mask_input[row],
        ),
        artifact.manifest.fixed_sizes.get("points", [0])[0],
    )
    embedding = runtime.encode(image)
    prediction = runtime.decode(embedding, prompts)
    features = (embedding.image_embeddings, *embedding.high_res_features)
    names = (IMAGE_EMBEDDINGS, *HIGH_RES_FEATURES)[: len(features)]
    embeddings = dict(zip(names, features, strict=True))
    arrays = (prompts.point_coords, prompts.point_labels, prompts.mask_input, prompts.has_mask_input)
    (taken,) = artifact.manifest.graphs["encoder"].inputs  # the image, or the photo itself
    inputs = {taken.name: image} | embeddings | dict(zip(PROMPT_INPUTS, arrays, strict=True))
    masks = dict(zip(PREDICTION_OUTPUTS, (prediction.low_res_masks, prediction.iou_predictions), strict=True))
    return inputs, embeddings | masks


def _filled(prompts: PromptTensors, points: int) -> PromptTensors:
    """With empty slots up to the number of points that a file fixes; 0: as they are."""
    missing = max(0, points - prompts.point_labels.shape[1])
    return PromptTensors(
        np.pad(prompts.point_coords, ((0, 0), (0, missing), (0, 0))),
        np.pad(prompts.point_labels, ((0, 0), (0, missing)), constant_values=LABEL_EMPTY),
        prompts.mask_input,
        prompts.has_mask_input,
    )


def _little_endian(array: NDArray[Any]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def _describe(artifact: Artifact, inputs: Tensors, expected: Tensors, threads: int) -> dict[str, Any]:
    manifest = artifact.manifest

    def tensors(found: Tensors) -> list[dict[str, Any]]:
        return [{"name": name, "dtype": str(array.dtype), "shape": list(array.shape)} for name, array in found.items()]

    return {
        "schema": KIT_SCHEMA,
        "model": manifest.name,
        "target": manifest.target,
        "precision": artifact_precision(artifact),
        "image_size_px": manifest.spec.image_size,
        "threads": threads if manifest.target != "coreml" else 0,  # Xcode's report lets nobody choose
        "graphs": {name: graph.file for name, graph in manifest.graphs.items()},
        "inputs": tensors(inputs),
        "expected": tensors(expected),
        "golden_row": GOLDEN_ROW,
        "points": int(inputs["point_labels"].shape[1]),
    }
