"""A `Sam` as two OpenVINO models, encoder.xml and .bin, decoder.xml and .bin, converted from the graphs of `to_onnx`.

The only file that imports nncf. Whatever is not int8 is computed in float32. As in `to_onnx`, a weight is stored as
float16 only where float16 holds it exactly, and `exported_values(model, "float16")` has rounded the weights first; so
torch with those values and the files agree as closely as with float32 weights.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sam_edge.contract import Float32
from sam_edge.errors import ExportError, RuntimeUnavailable, SamEdgeError
from sam_edge.export.graphs import MIN_ELEMENTS, check_contract, exported_values
from sam_edge.export.plan import Exported, Plan
from sam_edge.export.to_onnx import DECODER_NAME, ENCODER_NAME, photo_graph, to_onnx_bytes
from sam_edge.export.units import check_known, matched, unit_weights
from sam_edge.model.sam import Sam
from sam_edge.openvino_check import describe
from sam_edge.runtimes.with_openvino import import_openvino, without_telemetry

__all__ = ["PRECISIONS", "export"]

EXTRA = "export-openvino"
PRECISIONS = ("fp32", "fp16", "int8", "int8-weights")
TOOLS = ("torch", "onnx", "onnxscript", "onnxslim", "openvino")
WEIGHTED = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul")
ATTENTION = ("Softmax", "ScaledDotProductAttention")


def export(model: Sam, plan: Plan) -> Exported:
    """See `plan.py`. The sizes of prompts are free: `fixed_sizes` is empty.

    Raises ExportError for another precision, for int8 without calibration photos, and for float units that the encoder
    does not have; RuntimeUnavailable without openvino or nncf.
    """
    precision = plan.recipe.precision
    if precision not in PRECISIONS:
        raise ExportError(f"precision is {precision!r:.60}, expected for OpenVINO one of: {', '.join(PRECISIONS)}.")
    if precision == "int8" and not plan.calibration:
        raise ExportError("int8 needs calibration photos and got none. Give some, or take int8-weights.")
    ov = import_openvino()
    model = exported_values(model, "float32" if precision == "fp32" else "float16")
    graphs = to_onnx_bytes(model, weights="float32")
    try:
        with _quiet():
            encoder, decoder = (ov.convert_model(io.BytesIO(graphs[name])) for name in (ENCODER_NAME, DECODER_NAME))
            if precision.startswith("int8"):
                encoder = _quantized(encoder, model, plan)
            if plan.photo_input:
                encoder = _joined(ov.convert_model(io.BytesIO(photo_graph(model.spec))), encoder)
    except SamEdgeError:
        raise
    except Exception as error:  # openvino's and nncf's exceptions share no public base class
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ExportError(
            f"{model.spec.name} cannot be made an OpenVINO model in {precision} ({reason}). "
            "Use the library versions of the export-openvino extra, or another precision."
        ) from error
    files: dict[str, bytes] = {}
    for name, graph in (("encoder", encoder), ("decoder", decoder)):
        if precision != "fp32":
            _store_as_float16(graph)
        files |= _files(graph, name)
    check_contract(replace(model.spec, photo_input=plan.photo_input), describe(files), EXTRA)
    return Exported(files, tools=(*TOOLS, "nncf") if precision.startswith("int8") else TOOLS)


def _joined(photo: Any, encoder: Any) -> Any:
    """The encoder with the photo's graph before it."""
    ov = import_openvino()
    from openvino import opset13

    (taken,) = encoder.inputs
    (given,) = photo.outputs
    # OpenVINO does not see that what was cut to the photo and filled up again has the size it was filled up to.
    image = opset13.reshape(given.get_node().input_value(0), list(taken.get_shape()), special_zero=False).output(0)
    for user in taken.get_node().output(0).get_target_inputs():
        user.replace_source_output(image)
    return ov.Model(encoder.get_results(), photo.get_parameters(), "sam")


def _quantized(encoder: Any, model: Sam, plan: Plan) -> Any:
    """The encoder as an openvino.Model with int8 units, all but the recipe's float ones."""
    nncf = _import_nncf()
    nncf.set_log_level(logging.ERROR)
    weights = unit_weights(model)
    check_known(plan.recipe.float_units, weights)
    nodes = matched(weights, _weighted_nodes(encoder))
    kept = nncf.IgnoredScope(names=[nodes[unit] for unit in plan.recipe.float_units])
    if plan.recipe.precision == "int8-weights":
        return nncf.compress_weights(encoder, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=kept)
    attends = any(op.get_type_name() in ATTENTION for op in encoder.get_ordered_ops())
    return nncf.quantize(
        encoder,
        nncf.Dataset(list(plan.calibration)),
        model_type=nncf.ModelType.TRANSFORMER if attends else None,  # leaves softmax and norms in float
        preset=nncf.QuantizationPreset.MIXED,  # symmetric weights, activations with a zero point
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(plan.calibration),
        ignored_scope=kept,
        # The default halves the range of weights for CPUs without VNNI, whose sums of int8 products overflow. With it
        # the features' mean cosine to float was 0.974, without 0.984.
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.DISABLE),
    )


def _weighted_nodes(model: Any) -> Iterator[tuple[str, Float32]]:
    """The name of each layer with a stored weight, and that weight."""
    for op in model.get_ordered_ops():
        if op.get_type_name() in WEIGHTED:
            source = op.input_value(1).get_node()
            if source.get_type_name() == "Constant":
                yield op.get_friendly_name(), source.data


def _store_as_float16(model: Any) -> None:
    """Store each large float32 constant that float16 holds exactly as such, and a Convert back for its users.

    OpenVINO's own compress_to_fp16 rounds everything, the position encoding's matrix and derived tables as well.
    """
    from openvino import opset13

    for op in model.get_ordered_ops():
        if op.get_type_name() != "Constant" or op.get_element_type().to_string() != "f32":
            continue
        values = op.data
        if values.size <= MIN_ELEMENTS:
            continue
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if np.array_equal(halves.astype(np.float32), values):
            float32 = opset13.convert(opset13.constant(halves), "f32").output(0)
            for user in op.output(0).get_target_inputs():
                user.replace_source_output(float32)


def _files(model: Any, name: str) -> dict[str, bytes]:
    """The XML and its constants; the same model always gives the same bytes.

    Left out is what tells of the machine and not of the model: versions, settings, names with running numbers.
    """
    ov = import_openvino()
    for index, op in enumerate(model.get_ordered_ops()):
        if op.get_type_name() == "Parameter":
            continue
        op.set_friendly_name(f"{op.get_type_name()}_{index}")
        if op.get_type_name() != "Result":  # its name is the tensor that it gives
            for output in op.outputs():
                if not any(user.get_node().get_type_name() == "Result" for user in output.get_target_inputs()):
                    output.set_names(set())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.xml"
        ov.save_model(model, path, compress_to_fp16=False)
        text, weights = path.read_text(encoding="utf-8"), path.with_suffix(".bin").read_bytes()
    text = re.sub(r"<rt_info>.*?</rt_info>", "", text, flags=re.DOTALL)
    text = re.sub(r">\s+<", "><", text).strip().replace("<layer ", "\n<layer ").replace("<edges", "\n<edges")
    return {f"{name}.xml": text.encode(), f"{name}.bin": weights}


def _import_nncf() -> Any:
    try:
        with without_telemetry():
            import nncf
    except ImportError as error:
        raise RuntimeUnavailable(
            f"nncf cannot be imported ({error}), and int8 for OpenVINO is made with it. Install it with: "
            f"pip install 'sam-edge[{EXTRA}]'"
        ) from error
    return nncf


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """nncf draws progress bars and tables."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
