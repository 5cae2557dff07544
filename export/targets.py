"""The four targets: where each exporter is, what it can make, and what computes its files here."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from sam_edge.errors import ExportError, RuntimeUnavailable
from sam_edge.export.plan import Exported, Plan
from sam_edge.model.sam import Sam
from sam_edge.quantize.recipe import PRECISIONS

__all__ = ["PHOTO_INPUT", "TARGETS", "Target", "find_target"]

PHOTO_INPUT = ("onnx", "openvino")  # targets whose encoder can take the photo itself


@dataclass(frozen=True)
class Converter:
    """The libraries that an export needs, those that int8 needs besides, and the extra that installs all of them."""

    libraries: tuple[str, ...]
    extra: str
    int8_libraries: tuple[str, ...] = ()

    def check(self, target: str, precision: str) -> None:
        """Raises RuntimeUnavailable where one is missing, with the line that installs it."""
        for library in self.libraries + (self.int8_libraries if precision.startswith("int8") else ()):
            if importlib.util.find_spec(library) is None:
                raise RuntimeUnavailable(
                    f"exporting to {target} in {precision} needs {library}, which is not installed. "
                    f"Install it with: pip install 'sam-edge[{self.extra}]'"
                )


ONNX = ("onnx", "onnxscript", "onnxslim")  # OpenVINO's files are made from these graphs
CONVERTERS = {
    "onnx": Converter(ONNX, "export"),
    "openvino": Converter((*ONNX, "openvino"), "export-openvino", int8_libraries=("nncf",)),
    "coreml": Converter(("coremltools",), "export-coreml"),
    "tflite": Converter(("litert_torch", "ai_edge_quantizer", "ai_edge_litert"), "export-tflite"),
}


@dataclass(frozen=True)
class Target:
    """One of `TARGETS`; its module is imported when something is asked of it."""

    name: str

    @property
    def precisions(self) -> tuple[str, ...]:
        return tuple(self._module().PRECISIONS)

    def check(self, precision: str) -> None:
        """Raises ExportError for a precision that it has not, RuntimeUnavailable without its converter."""
        if precision not in PRECISIONS:
            raise ExportError(f"precision {precision!r:.60} is not known, expected one of: {', '.join(PRECISIONS)}.")
        CONVERTERS[self.name].check(self.name, precision)
        if precision not in self.precisions:
            raise ExportError(f"{self.name} has no {precision}, expected one of: {', '.join(self.precisions)}.")

    def export(self, model: Sam, plan: Plan) -> Exported:
        """Raises ExportError, RuntimeUnavailable."""
        exported: Exported = self._module().export(model, plan)
        return exported

    def _module(self) -> Any:
        return importlib.import_module(f"sam_edge.export.to_{self.name}")


TARGETS = {name: Target(name) for name in CONVERTERS}


def find_target(name: str) -> Target:
    """Raises ExportError for a name that is none."""
    if name not in TARGETS:
        raise ExportError(f"target {name!r:.60} is not known, expected one of: {', '.join(TARGETS)}.")
    return TARGETS[name]
