"""Segment Anything for phones, embedded boards, CPUs and browsers.

>>> import sam_edge
>>> predictor = sam_edge.SamPredictor(sam_edge.load("nano"))

Names are imported when they are first used, so that `import sam_edge` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam_edge.errors import (
        ArtifactError,
        CheckpointError,
        DataError,
        ExportError,
        ImageError,
        OutputError,
        PromptError,
        RuntimeUnavailable,
        SamEdgeError,
    )
    from sam_edge.everything import SamAutomaticMaskGenerator
    from sam_edge.image import read_photo
    from sam_edge.predictor import SamPredictor
    from sam_edge.runtimes import available_models, load

    __version__: str

__all__ = [
    "ArtifactError",
    "CheckpointError",
    "DataError",
    "ExportError",
    "ImageError",
    "OutputError",
    "PromptError",
    "RuntimeUnavailable",
    "SamAutomaticMaskGenerator",
    "SamEdgeError",
    "SamPredictor",
    "__version__",
    "available_models",
    "load",
    "read_photo",
]

_HOMES = {
    "SamAutomaticMaskGenerator": "sam_edge.everything",
    "SamPredictor": "sam_edge.predictor",
    "available_models": "sam_edge.runtimes",
    "load": "sam_edge.runtimes",
    "read_photo": "sam_edge.image",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("sam-edge")
    elif name in __all__:
        value = getattr(importlib.import_module(_HOMES.get(name, "sam_edge.errors")), name)
    else:
        raise AttributeError(f"module 'sam_edge' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
