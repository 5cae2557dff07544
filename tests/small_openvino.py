"""The small artifact of `small_artifact.py` for OpenVINO: its two hand-written graphs, converted."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

from sam_edge.artifact import Artifact, write_artifact
from sam_edge.export import to_openvino
from sam_edge.golden_vectors import GoldenPhoto, pack, record
from sam_edge.runtimes import with_openvino
from tests.small_artifact import DECODER, ENCODER, small_graph, small_manifest, small_photo, small_prompts

__all__ = ["small_openvino", "small_openvino_files", "whole_openvino"]


@functools.cache
def _converted() -> tuple[tuple[str, bytes], ...]:
    ov = with_openvino.import_openvino()
    files: dict[str, bytes] = {}
    for name, text in (("encoder", ENCODER), ("decoder", DECODER)):
        files |= to_openvino._files(ov.convert_model(io.BytesIO(small_graph(text))), name)
    return tuple(files.items())


def small_openvino_files() -> dict[str, bytes]:
    """encoder.xml, encoder.bin, decoder.xml, decoder.bin."""
    return dict(_converted())


def small_openvino(
    directory: Path, golden: tuple[GoldenPhoto, ...] = (), files: dict[str, bytes] | None = None, **changes: Any
) -> Artifact:
    """Write it to `directory`; `files` replace those of the model."""
    changes = {"target": "openvino"} | changes
    return write_artifact(
        directory, small_manifest(**changes), small_openvino_files() | (files or {}) | {"golden.npz": pack(golden)}
    )


def whole_openvino(parent: Path) -> Path:
    """A folder with two golden photos, which loads with all checks."""
    small_openvino(parent / "draft")
    runtime = with_openvino.load(parent / "draft", 1, canary=False)
    golden = tuple(record(runtime, small_photo(seed), small_prompts()) for seed in (1, 2))
    small_openvino(parent / "small", golden)
    return parent / "small"
