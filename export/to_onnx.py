"""A `Sam` as two ONNX files, encoder.onnx and decoder.onnx, with the contract's names, shapes and dynamic sizes.

The only file that imports onnx. Weights can be stored as float16 while everything is computed in float32: such a weight
is a float16 initializer and a Cast, which runtimes fold when they load. The model's weights are rounded first
(`exported_values`), and only what float16 then holds exactly is stored so, hence torch with those values and the files
agree as closely as with float32 weights.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sam_edge.contract import IMAGE, PHOTO, ModelSpec
from sam_edge.errors import ExportError, first_line, require
from sam_edge.export.graphs import (
    MIN_ELEMENTS,
    Decoder,
    Encoder,
    Weights,
    check_contract,
    example_image,
    example_prompts,
    exported_values,
    fingerprint,
    free_sizes,
    tensor_names,
)
from sam_edge.export.onnx_quantization import quantize_dynamic, quantize_static, quantize_weights
from sam_edge.export.photo_input import PhotoInput
from sam_edge.export.plan import Exported, Plan
from sam_edge.export.units import unit_weights
from sam_edge.manifest import HEIGHT, WIDTH
from sam_edge.model.sam import Sam
from sam_edge.onnx_check import describe, read_onnx_structure

__all__ = [
    "DECODER_NAME",
    "ENCODER_NAME",
    "OPSET",
    "PRECISIONS",
    "export",
    "photo_graph",
    "to_onnx_bytes",
]

ENCODER_NAME, DECODER_NAME = "encoder.onnx", "decoder.onnx"
PRECISIONS = ("fp32", "fp16", "int8", "int8-dynamic", "int8-weights")
TOOLS = ("onnx", "onnxscript", "onnxslim", "onnxruntime")
OPSET = 20
OPSETS = range(18, 23)  # tried; below 18 the exporter says nothing and writes 18
MAX_KEPT, MAX_KEPT_BYTES = 3, 100_000_000
MAX_PROMPTS, MAX_POINTS, MAX_SIDE = (
    4096,
    256,
    65535,
)  # bounds for torch.export, which needs some; the files themselves have none


def export(model: Sam, plan: Plan) -> Exported:
    """See `plan.py`. int8 is the encoder's: convolutions and matrix products with their activations; the decoder then
    is stored as float16. Raises ExportError."""
    files = _in_precision(model, plan)
    if plan.photo_input:
        files[ENCODER_NAME] = _joined(photo_graph(model.spec), files[ENCODER_NAME])
        check_contract(replace(model.spec, photo_input=True), describe(files), "export")
    return Exported(files, tools=TOOLS)


def _in_precision(model: Sam, plan: Plan) -> dict[str, bytes]:
    precision, kept = plan.recipe.precision, plan.recipe.float_units
    if precision in ("fp32", "fp16"):
        return to_onnx_bytes(model, weights="float16" if precision == "fp16" else "float32")
    files = to_onnx_bytes(model, weights="float32")
    encoder, decoder = files[ENCODER_NAME], files[DECODER_NAME]
    if precision == "int8":
        encoder = quantize_static(encoder, plan.calibration, unit_weights(model), kept)
        decoder = to_onnx_bytes(model, weights="float16")[DECODER_NAME]
    elif precision == "int8-dynamic":
        encoder, decoder = quantize_dynamic(encoder), quantize_dynamic(decoder)
    else:
        encoder, decoder = quantize_weights(encoder, unit_weights(model), kept), quantize_weights(decoder, {}, ())
    return {ENCODER_NAME: encoder, DECODER_NAME: decoder}


def photo_graph(spec: ModelSpec, opset: int = OPSET) -> bytes:
    """`PhotoInput` as a graph of its own: photo (height, width, 3) uint8 -> image. Raises ExportError."""
    sides = {0: torch.export.Dim(HEIGHT, min=1, max=MAX_SIDE), 1: torch.export.Dim(WIDTH, min=1, max=MAX_SIDE)}
    example = torch.zeros(300, 200, 3, dtype=torch.uint8)
    traced = _trace(PhotoInput(spec).eval(), (example,), ((PHOTO,), (IMAGE,)), (sides,), opset)
    return _finish(traced, "the photo's input", "float32")


def _joined(photo: bytes, encoder: bytes) -> bytes:
    """The encoder with the photo's graph before it."""
    import onnx
    from onnx import compose

    before, after = (onnx.load_from_string(data) for data in (photo, encoder))
    before.ir_version = after.ir_version = max(before.ir_version, after.ir_version)
    before = compose.add_prefix(before, "photo/", rename_inputs=False)
    joined = compose.merge_models(before, after, io_map=[(f"photo/{IMAGE}", IMAGE)])
    _strip(joined)
    onnx.checker.check_model(joined, full_check=True)
    return bytes(joined.SerializeToString(deterministic=True))


def to_onnx_bytes(model: Sam, *, weights: Weights = "float16", opset: int = OPSET) -> dict[str, bytes]:
    """File name -> content of both graphs; the same model always gives the same bytes. Raises ExportError.

    The last results are kept: precisions and targets of one model (OpenVINO starts here, too) share a trace of 20 s.
    """
    key = (fingerprint(model), weights, opset)
    if key not in _kept:
        files = _to_onnx_bytes(model, weights, opset)
        if sum(map(len, files.values())) > MAX_KEPT_BYTES:
            return files
        while len(_kept) >= MAX_KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[key] = files
    return dict(_kept[key])


_kept: dict[tuple[str, Weights, int], dict[str, bytes]] = {}


def _to_onnx_bytes(model: Sam, weights: Weights, opset: int) -> dict[str, bytes]:
    require("onnx", extra="export")
    if opset not in OPSETS:
        raise ExportError(f"opset is {opset}, expected {OPSETS.start} to {OPSETS.stop - 1}. Leave it out for {OPSET}.")
    model = exported_values(model, weights)
    image = example_image(model.spec)
    with torch.no_grad():
        embeddings = model.encode(image)
    sizes = (*(None for _ in embeddings), *free_sizes(MAX_PROMPTS, MAX_POINTS))
    examples = (image,), (*embeddings, *example_prompts(model.spec))
    encoder_names, decoder_names = (tensor_names(model.spec, graph) for graph in ("encoder", "decoder"))
    traced = {
        ENCODER_NAME: _trace(Encoder(model), examples[0], encoder_names, None, opset),
        DECODER_NAME: _trace(Decoder(model), examples[1], decoder_names, (sizes,), opset),
    }
    files = {name: _finish(graph, name, weights) for name, graph in traced.items()}
    check_contract(model.spec, describe(files), "export")
    for name, data in files.items():
        if (got := read_onnx_structure(data, name).opset) != opset:
            raise ExportError(
                f"{name} was exported at opset {got}, expected {opset}. "
                "The exporter has changed: use the library versions of the export extra."
            )
    return files


def _trace(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    names: tuple[tuple[str, ...], tuple[str, ...]],
    sizes: Any,
    opset: int,
) -> Any:
    """An onnx.ModelProto from torch.export, with all data inside. names: of inputs and outputs."""
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                inputs,
                dynamo=True,
                opset_version=opset,
                external_data=False,
                verbose=False,
                input_names=list(names[0]),
                output_names=list(names[1]),
                dynamic_shapes=sizes,
            )
    except Exception as error:  # the exporter wraps whatever happens in exceptions of several private modules
        reason = first_line(error)
        raise ExportError(f"torch cannot export this model at opset {opset} ({reason}). Use opset {OPSET}.") from error
    assert program is not None  # only the old exporter returns nothing
    return program.model_proto


def _finish(graph: Any, name: str, weights: Weights) -> bytes:
    """Simplify, strip, store weights and check: an onnx.ModelProto -> the file's bytes."""
    import onnx

    onnxslim = require("onnxslim", extra="export")
    with _quiet():
        model = onnxslim.slim(graph)
    if model is None:
        raise ExportError(f"onnxslim could not simplify {name}. Use the library versions of the export extra.")
    _strip(model)
    if weights == "float16":
        _store_as_float16(model.graph)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _strip(model: Any) -> None:
    """Leave out what tells of the machine and not of the model: traces with paths, texts, guessed shapes."""
    model.producer_name, model.producer_version, model.doc_string = "sam_edge", "", ""
    for field in (model.metadata_props, model.graph.metadata_props, model.graph.value_info):
        del field[:]
    model.graph.name, model.graph.doc_string = "sam", ""
    for item in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        item.doc_string = ""
        del item.metadata_props[:]


def _store_as_float16(graph: Any) -> None:
    """Store each large float32 initializer that float16 holds exactly as such, and a Cast back for its users."""
    import onnx

    casts = []
    for initializer in graph.initializer:
        values = onnx.numpy_helper.to_array(initializer)
        if values.dtype != np.float32 or values.size <= MIN_ELEMENTS:
            continue
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), values):
            continue  # derived while exporting: a table of position encodings, a folded norm
        name = initializer.name
        initializer.CopyFrom(onnx.numpy_helper.from_array(halves, name + "_float16"))
        casts.append(onnx.helper.make_node("Cast", [name + "_float16"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs that torchvision is absent and warns of its own internals; onnxslim prints a table."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
