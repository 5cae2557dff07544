"""A `Sam` as two Core ML packages, encoder.mlpackage and decoder.mlpackage: ML Programs for iOS 17 and macOS 14.

The only file besides the runtime that imports coremltools, which converts on every system. The encoder has a fixed
shape, as the Neural Engine needs; the decoder takes 1 to MAX_PROMPTS prompts of 1 to MAX_POINTS slots. Inputs and
outputs are float32 always.

What is computed in half precision is said operator by operator in the file, and so cannot change with the device. Every
precision but fp32 computes in float16, all that the Neural Engine has; `HalfPrecision` says what stays float32 in it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam_edge.contract import IMAGE, PROMPT_INPUTS, Float32
from sam_edge.coreml_check import (
    MANIFEST_PATH,
    MODEL_PATH,
    WEIGHTS_PATH,
    describe,
    package_manifest,
    read_package,
)
from sam_edge.errors import ExportError, RuntimeUnavailable, first_line, require
from sam_edge.export.graphs import (
    Decoder,
    Encoder,
    check_contract,
    example_image,
    example_prompts,
    exported_values,
    free_sizes,
    tensor_names,
)
from sam_edge.export.plan import Exported, Plan
from sam_edge.export.units import units
from sam_edge.mil_program import OPSET
from sam_edge.model.sam import Sam
from sam_edge.runtimes.mil_interpreter import Interpreter
from sam_edge.runtimes.mil_ops import Array

__all__ = ["COMPUTES", "MAX_POINTS", "MAX_PROMPTS", "PRECISIONS", "export"]

EXTRA = "export-coreml"
PRECISIONS = ("fp32", "fp16", "int8", "int8-weights", "int4-weights")
# What a device computes in, where that is not what `quantize/recipe.py` says of all targets.
COMPUTES = {"fp32": "float32", "fp16": "float16", "int8": "int8", "int8-weights": "float16", "int4-weights": "float16"}
# Core ML needs bounds of flexible sizes. The runtime decodes larger batches in parts; more points than that it refuses.
MAX_PROMPTS, MAX_POINTS = 64, 256

PRODUCTS = ("conv", "conv_transpose", "linear", "matmul")
UNIT_TYPES = ("conv", "conv_transpose", "linear")  # what the units of export/units.py become
NO_WEIGHTS = struct.pack("<II56x", 0, 2)  # a weight file's header: none in it, format version 2
STATISTICS = ("reduce_mean", "reduce_sum", "sqrt", "rsqrt")


def export(model: Sam, plan: Plan) -> Exported:
    """Convert and compress. Raises ExportError, or RuntimeUnavailable without coremltools."""
    precision, float_units = plan.recipe.precision, plan.recipe.float_units
    if precision not in PRECISIONS:
        raise ExportError(f"precision is {precision!r:.40}, expected for Core ML one of: {', '.join(PRECISIONS)}.")
    if precision == "int8" and not plan.calibration:
        raise ExportError("int8 needs calibration photos, got none: activations have to be seen. Give 16 or more.")
    with _quiet():
        require("coremltools", extra=EXTRA)
    model = exported_values(model, "float32")
    names = units(model)
    if unknown := set(float_units) - set(names):
        raise ExportError(
            f"{', '.join(sorted(unknown))[:200]} of the recipe's float_units are not in {model.spec.name}'s encoder, "
            f"expected names such as {names[0]}. Search the recipe again with this model."
        )
    kept = [names.index(name) for name in float_units]
    try:
        with _quiet(), torch.no_grad():
            encoder = _encoder(model, half=precision != "fp32")
            encoder = _compress(encoder, precision, kept, len(names), plan.calibration)
            decoder = _decoder(model, half=precision != "fp32")
            files = _package("encoder", encoder) | _package("decoder", decoder)
    except (ExportError, RuntimeUnavailable):
        raise
    except Exception as error:  # torch.export and coremltools raise whatever their passes meet
        reason = first_line(error)
        raise ExportError(
            f"{model.spec.name} cannot be converted to Core ML in {precision} ({reason}). "
            "Use the library versions of the export-coreml extra."
        ) from error
    check_contract(model.spec, describe(files), EXTRA)
    return Exported(files, tools=("torch", "coremltools"), computed=COMPUTES[plan.recipe.precision])


# Conversion. The names of `forward`'s arguments become the graphs' inputs, hence decoders with named ones.


class _Decoder(Decoder):
    def forward(  # type: ignore[override]
        self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor, mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        return self.model.decode((image_embeddings,), point_coords, point_labels, mask_input, has_mask_input)


class _DecoderWithFeatures(_Decoder):
    def forward(  # type: ignore[override]
        self, image_embeddings: Tensor, high_res_features_0: Tensor, high_res_features_1: Tensor, point_coords: Tensor,
        point_labels: Tensor, mask_input: Tensor, has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        embeddings = (image_embeddings, high_res_features_0, high_res_features_1)
        return self.model.decode(embeddings, point_coords, point_labels, mask_input, has_mask_input)


def _encoder(model: Sam, half: bool) -> Any:
    """A coremltools MLModel with a fixed shape."""
    _, outputs = tensor_names(model.spec, "encoder")
    program = torch.export.export(Encoder(model).eval(), (example_image(model.spec),))
    return _convert(program, outputs, HalfPrecision(prompts=False) if half else None)


def _decoder(model: Sam, half: bool) -> Any:
    """A coremltools MLModel with flexible numbers of prompts and points."""
    embeddings = model.encode(example_image(model.spec))
    inputs, outputs = tensor_names(model.spec, "decoder")
    free = dict(zip(PROMPT_INPUTS, free_sizes(MAX_PROMPTS, MAX_POINTS), strict=True))
    sizes = {name: free.get(name) for name in inputs}
    module = _DecoderWithFeatures(model) if len(embeddings) > 1 else _Decoder(model)
    program = torch.export.export(module.eval(), (*embeddings, *example_prompts(model.spec)), dynamic_shapes=sizes)
    return _convert(program, outputs, HalfPrecision(prompts=True) if half else None)


def _convert(program: Any, outputs: Sequence[str], half: HalfPrecision | None) -> Any:
    ct = require("coremltools", extra=EXTRA)
    precision = ct.precision.FLOAT32 if half is None else ct.transform.FP16ComputePrecision(op_selector=half)
    return ct.convert(
        program.run_decompositions({}),
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=precision,
        outputs=[ct.TensorType(name=name, dtype=np.float32) for name in outputs],
        skip_model_load=True,
    )


class HalfPrecision:
    """Which operators of a program compute in float16: coremltools asks for each, `True` means yes.

    Decided from the graph, since names differ from conversion to conversion. float32 stay
    - with `prompts`, all that is computed from prompts before the first product with weights: coordinates reach 1024
      and their squares past float16's 65504, and angles of the position encoding would be off by pixels;
    - means and roots of the norms, with what feeds only them: a sum of squares overflows;
    - all that follows a sigmoid, which is the judgement of the drawn mask: it divides by the number of pixels.
    """

    def __init__(self, prompts: bool) -> None:
        self._prompts = prompts
        self._whole: set[Any] | None = None  # operators that stay float32

    def __call__(self, op: Any) -> bool:
        if self._whole is None:  # at the first question the program is still as it was
            self._whole = self._find(list(op.enclosing_block.operations))
        return op not in self._whole

    def _find(self, ops: list[Any]) -> set[Any]:
        mixed: set[Any] = set()  # computed with weights
        judging: set[Any] = set()
        for op in ops:
            parents = _parents(op)
            if op.op_type in PRODUCTS or parents & mixed:
                mixed.add(op)
            if op.op_type == "sigmoid" or parents & judging:
                judging.add(op)
        whole = judging | {op for op in ops if op.op_type in STATISTICS}
        for op in reversed(ops):
            children = {child for output in op.outputs for child in output.child_ops}
            if children and children <= whole and op.op_type not in PRODUCTS:
                whole.add(op)
        return whole | (set(ops) - mixed if self._prompts else set())


def _parents(op: Any) -> set[Any]:
    values = [
        value for given in op.inputs.values() for value in (given if isinstance(given, list | tuple) else [given])
    ]
    return {value.op for value in values if value is not None and value.op is not None}


# Compression of the encoder.


def _compress(encoder: Any, precision: str, kept: list[int], count: int, calibration: Sequence[Float32]) -> Any:
    """`kept`: which of the `count` units stay float."""
    if precision in ("fp32", "fp16"):
        return encoder
    tools = require("coremltools", extra=EXTRA).optimize.coreml
    block = encoder.get_spec().mlProgram.functions["main"].block_specializations[OPSET]
    products = [op for op in block.operations if op.type in UNIT_TYPES]
    if len(products) != count:
        raise ExportError(
            f"Core ML's encoder has {len(products)} products with weights, but the model {count} units. "
            "Use the library versions of the export-coreml extra."
        )
    floats = {_weight(products[index]): products[index] for index in kept}

    def config(settings: Any, without: Iterable[str] = ()) -> Any:
        """For all units but the float ones, whether the tool looks at an operator or at its weight."""
        made = tools.OptimizationConfig(op_type_configs=dict.fromkeys(UNIT_TYPES, settings))
        made.op_name_configs.update(dict.fromkeys([*floats, *map(_name, floats.values()), *without]))
        return made

    if precision == "int4-weights":
        palette = tools.OpPalettizerConfig(mode="kmeans", nbits=4)
        encoder = tools.palettize_weights(encoder, config(palette, _depthwise_weights(block)))
    settings = tools.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
    if precision == "int8":
        encoder = _quantize_activations(encoder, config, _ranges(encoder, calibration))
    return tools.linear_quantize_weights(encoder, config(settings))


def _depthwise_weights(block: Any) -> list[str]:
    """Few numbers, which differ much from channel to channel: 16 values for all of them leave nothing of nano's masks
    (mean IoU 0.52 of clicks, against 0.63 with these in int8), and save 0.1 MB."""
    shapes = {
        output.name: [size.constant.size for size in output.type.tensorType.dimensions]
        for op in block.operations
        for output in op.outputs
    }
    weights = [_weight(op) for op in block.operations if op.type in UNIT_TYPES]
    return [name for name in weights if len(shapes[name]) == 4 and shapes[name][1] == 1]


def _quantize_activations(encoder: Any, config: Callable[[Any], Any], ranges: dict[str, dict[str, float]]) -> Any:
    """Quantize and dequantize around every unit, addition and pooling: coremltools' own passes with our ranges.

    Its `linear_quantize_activations` runs the model, and so needs macOS; in version 9.0 it also forgets all samples but
    the last one (`record_intermediate_output` overwrites before it compares).
    """
    ct = require("coremltools", extra=EXTRA)
    registry = require("coremltools.converters.mil.mil.passes.pass_registry", extra=EXTRA).PASS_REGISTRY
    option = require("coremltools.converters.mil.mil.passes.graph_pass", extra=EXTRA).PassOption
    settings = ct.optimize.coreml.OpLinearQuantizerConfig(mode="linear", weight_threshold=0)
    made = config(settings)
    for kind in ("add", "avg_pool", "max_pool"):
        made.op_type_configs[kind] = settings
    passes = []
    for name in ("insert_prefix_quantize_dequantize_pair", "insert_suffix_quantize_dequantize_pair"):
        passes.append(registry[f"compression::{name}"])
        passes[-1].set_options([option("config", made), option("activation_stats", ranges)])
    passes.append(registry["common::dequantize_quantize_pair_elimination"])
    return ct.models.utils._apply_graph_pass(encoder, passes)


def _ranges(encoder: Any, calibration: Sequence[Float32]) -> dict[str, dict[str, float]]:
    """The smallest and the largest number of every tensor of the encoder over the calibration photos."""
    program = read_package(_package("encoder", encoder), "encoder.mlpackage")
    interpreter = Interpreter(program)
    ranges: dict[str, dict[str, float]] = {}

    def observe(name: str, array: Array) -> None:
        if array.dtype != np.float32:
            return
        low, high = float(array.min()), float(array.max())
        seen = ranges.setdefault(name, {"rmin": low, "rmax": high})
        seen["rmin"], seen["rmax"] = min(seen["rmin"], low), max(seen["rmax"], high)

    for image in calibration:
        observe(IMAGE, image)
        interpreter.run({IMAGE: image}, observe)
    return ranges


def _weight(op: Any) -> str:
    return str(op.inputs["weight"].arguments[0].name)


def _name(op: Any) -> str:
    """coremltools knows an operator by its attribute "name"."""
    return str(op.attributes["name"].immediateValue.tensor.strings.values[0])


# Files.


def _package(name: str, mlmodel: Any) -> dict[str, bytes]:
    """The package's files; the same model gives the same bytes."""
    spec = mlmodel.get_spec()
    written = spec.description.metadata.userDefined
    for key in [key for key in written if key.endswith("conversion_date")]:
        del written[key]
    package, weights = f"{name}.mlpackage", Path(mlmodel.weights_dir) / "weight.bin"
    return {
        f"{package}/{MANIFEST_PATH}": package_manifest(),
        f"{package}/{MODEL_PATH}": bytes(spec.SerializeToString(deterministic=True)),
        f"{package}/{WEIGHTS_PATH}": weights.read_bytes() if weights.exists() else NO_WEIGHTS,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """coremltools logs what libraries it has not been tested with and what it cannot load here, and draws bars.

    torch describes every step to its logger "torch.__trace" while that one has a handler, as it had under pytest:
    minutes for an export of seconds.
    """
    ours, trace, text = logging.getLogger("coremltools"), logging.getLogger("torch.__trace"), io.StringIO()
    level, handlers = ours.level, trace.handlers
    ours.setLevel(logging.ERROR)
    trace.handlers = []
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            warnings.simplefilter("ignore")
            yield
    finally:
        ours.setLevel(level)
        trace.handlers = handlers
