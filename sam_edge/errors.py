"""What a caller may catch. Every message says what came, what was expected and what to do.

SamEdgeError
├── PromptError          points, labels, boxes or mask inputs that cannot be used
├── ImageError           a photo that cannot be read, or is too large to be decoded safely
├── CheckpointError      weights that do not belong to the model, or that are unsafe to load
├── ArtifactError        a model folder whose files, hashes or contract differ from its manifest
├── DataError            a training or evaluation set that cannot be read
├── RuntimeUnavailable   a library or a system that a runtime needs is not here
├── ExportError          an export that could not be made, or did not pass its checks
└── OutputError          a result that could not be written
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

__all__ = [
    "ArtifactError",
    "CheckpointError",
    "DataError",
    "ExportError",
    "ImageError",
    "OutputError",
    "PromptError",
    "RuntimeUnavailable",
    "SamEdgeError",
    "check_shape",
    "first_line",
    "require",
]


class SamEdgeError(Exception):
    """Base of all errors a caller may catch; the command line prints one as a single line."""


class PromptError(SamEdgeError, ValueError):
    """Points, labels, boxes or a mask input that cannot be used."""


class ImageError(SamEdgeError, ValueError):
    """A photo that cannot be read, or is too large to be decoded safely."""


class CheckpointError(SamEdgeError):
    """Weights that do not belong to the model, or that are unsafe to load."""


class ArtifactError(SamEdgeError):
    """A model folder whose files, hashes or contract differ from its manifest."""


class DataError(SamEdgeError):
    """A training or evaluation set that cannot be read."""


class RuntimeUnavailable(SamEdgeError):
    """A library or a system that a runtime needs is not here."""


class ExportError(SamEdgeError):
    """An export that could not be made, or did not pass its checks."""


class OutputError(SamEdgeError):
    """A result that could not be written."""


def check_shape(
    name: str, array: Any, expected: tuple[int | str, ...], hint: str, error: type[SamEdgeError] = PromptError
) -> None:
    """Raise `error` unless `array.shape` fits `expected`, whose names fit any size: ("B", 256, 32, 32)."""
    got = tuple(array.shape)
    fits = len(got) == len(expected) and all(
        not isinstance(size, int) or size == have for size, have in zip(expected, got, strict=True)
    )
    if not fits:
        raise error(f"{name} has shape {got}, expected ({', '.join(map(str, expected))}). {hint}")


def first_line(error: BaseException) -> str:
    """What a library's exception says, for the middle of a one-line message: its first line, or its type's name."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def require(module: str, extra: str) -> ModuleType:
    """Import an optional library, or raise RuntimeUnavailable with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RuntimeUnavailable(
            f"{module} is needed and cannot be imported ({error}). Install it with: pip install 'sam-edge[{extra}]'"
        ) from error
