"""What the files of a model say of themselves, by target: tensors and operators of each graph, without its runtime.

A reader knows its format well enough to refuse what a model file may not do, and imports nothing but the standard
library: it runs before a runtime sees a byte, on machines that have no runtime at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sam_edge.errors import ArtifactError
from sam_edge.manifest import Graph

__all__ = ["TARGETS", "describe"]

Files = Mapping[str, bytes]


def _onnx(files: Files) -> dict[str, Graph]:
    from sam_edge import onnx_check

    return onnx_check.describe(files)


def _openvino(files: Files) -> dict[str, Graph]:
    from sam_edge import openvino_check

    return openvino_check.describe(files)


def _tflite(files: Files) -> dict[str, Graph]:
    from sam_edge import tflite_check

    return tflite_check.describe(files)


def _coreml(files: Files) -> dict[str, Graph]:
    from sam_edge import coreml_check

    return coreml_check.describe(files)


TARGETS: dict[str, Callable[[Files], dict[str, Graph]]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "tflite": _tflite,
    "coreml": _coreml,
}


def describe(target: str, files: Files) -> dict[str, Graph]:
    """File name -> bytes of one model, to its graphs "encoder" and "decoder". Raises ArtifactError.

    A graph has the contract's tensors, with the names of `manifest.py` for sizes that a caller chooses, also where the
    format fixes them to a few.
    """
    if target not in TARGETS:
        raise ArtifactError(f"target {target!r:.60} is not known, expected one of: {', '.join(TARGETS)}.")
    return TARGETS[target](files)
