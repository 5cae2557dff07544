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
from sam_edge.errors import ExportError
from sam_edge.manifest import POINTS, PROMPTS
from sam_edge.quantize.recipe import Recipe
from sam_edge.tflite_check import MAX_SIGNATURES

__all__ = ["Exported", "Plan", "Sizes"]

MAX_SIZE = 4096  # prompts or points of a signature; a manifest takes no more


@dataclass(frozen=True)
class Sizes:
    """The prompts and the points that one run of the decoder takes, where a format fixes them (TFLite); each pair of
    them is a signature of its file.

    One prompt a run, since several together take as long as one after the other (nano, one thread: 11.0 ms for one,
    44.3 for four). 8 slots take no longer than 2, 16 take 15 % longer.
    """

    prompts: tuple[int, ...] = (1,)
    points: tuple[int, ...] = (8, 32)

    def __post_init__(self) -> None:
        for name, sizes in ((PROMPTS, self.prompts), (POINTS, self.points)):
            if not sizes or sizes != tuple(sorted(set(sizes))) or not 1 <= sizes[0] <= sizes[-1] <= MAX_SIZE:
                raise ExportError(
                    f"sizes of {name} are {list(sizes)}, expected rising numbers of 1 to {MAX_SIZE}. Name each once."
                )
        if (pairs := len(self.prompts) * len(self.points)) > MAX_SIGNATURES:
            raise ExportError(
                f"{len(self.prompts)} sizes of prompts and {len(self.points)} of points make {pairs} signatures, "
                f"expected at most {MAX_SIGNATURES}. Name fewer."
            )


@dataclass(frozen=True)
class Plan:
    """`calibration`: preprocessed photos (1, 3, S, S) float32, as `image.preprocess` makes them; none unless needed.
    `sizes`: what the decoder takes where its format fixes that. `photo_input`: the encoder takes the photo itself and
    preprocesses it (`ModelSpec.photo_input`; targets.PHOTO_INPUT)."""

    recipe: Recipe
    calibration: Sequence[Float32] = ()
    sizes: Sizes = Sizes()
    photo_input: bool = False


@dataclass(frozen=True)
class Exported:
    """`files`: path inside the artifact -> bytes. `fixed_sizes`: see `Manifest`. `tools`: distributions whose versions
    belong into the manifest. `computed`: what a runtime computes in, where that is not what `PRECISIONS` says."""

    files: dict[str, bytes]
    fixed_sizes: dict[str, list[int]] = field(default_factory=dict)
    tools: tuple[str, ...] = ()
    computed: str = ""
