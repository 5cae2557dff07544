"""What a target's exporter gets and gives: the one small interface of `to_onnx.py`, `to_openvino.py` and the others.

A target module has `PRECISIONS`, the names of `quantize/recipe.py` it can make, and

    def export(model: Sam, plan: Plan) -> Exported

which raises ExportError for a model it cannot take, and RuntimeUnavailable where its converter is not installed. It
writes nothing outside a temporary folder, prints nothing, and knows neither certificates nor artifacts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sam_edge.contract import Float32
from sam_edge.quantize.recipe import Recipe

__all__ = ["Exported", "Plan"]


@dataclass(frozen=True)
class Plan:
    """`calibration`: preprocessed photos (1, 3, S, S) float32, as `image.preprocess` makes them; none unless needed."""

    recipe: Recipe
    calibration: Sequence[Float32] = ()


@dataclass(frozen=True)
class Exported:
    """`files`: path inside the artifact -> bytes. `fixed_sizes`: see `Manifest`. `tools`: distributions whose versions
    belong into the manifest. `computed`: what a runtime computes in, where that is not what `PRECISIONS` says."""

    files: dict[str, bytes]
    fixed_sizes: dict[str, list[int]] = field(default_factory=dict)
    tools: tuple[str, ...] = ()
    computed: str = ""
