"""A `Sam` as two LiteRT files, encoder.tflite and decoder.tflite, with the contract's names.

The only file that imports litert_torch and ai_edge_quantizer. LiteRT fixes every shape: the decoder's file has one
signature for each number of prompts and of points in `Sizes`, all with the same weights, and a runtime fills a prompt
with empty slots. Tensors of the encoder's units carry the units' names, so that a recipe finds them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sam_edge.contract import IMAGE, Float32
from sam_edge.errors import ExportError, first_line, require
from sam_edge.export.graphs import (
    Decoder,
    check_contract,
    example_image,
    exported_values,
    fingerprint,
    tensor_names,
)
from sam_edge.export.plan import Exported, Plan, Sizes
from sam_edge.export.units import check_known, units
from sam_edge.manifest import POINTS, PROMPTS, contract_tensors
from sam_edge.model.sam import Sam
from sam_edge.quantize.recipe import Recipe
from sam_edge.tflite_check import (
    DECODER_NAME,
    ENCODE_SIGNATURE,
    ENCODER_NAME,
    METADATA,
    OPERATORS,
    decode_signature,
    describe,
    read_tflite_structure,
)

__all__ = ["PRECISIONS", "export"]

PRECISIONS = ("fp32", "fp16", "int8", "int8-dynamic", "int8-weights")
EXTRA = "export-tflite"
TOOLS = ("torch", "litert-torch", "ai-edge-litert", "ai-edge-quantizer")
UNIT_OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
EVERY = ".*"  # operator, in the quantizer's rules


def export(model: Sam, plan: Plan) -> Exported:
    """Convert the model as `plan.recipe` says, with a decoder for `plan.sizes`.

    "int8" quantizes the encoder with ranges from `plan.calibration`; where it has attention, only its units, since the
    arithmetic between them (norms, softmax) does not stand eight bits. "int8-dynamic" is for the matrix products of
    both graphs. What stays float is stored as float16 and computed in float32, but for "fp32".

    Raises ExportError for a model or a recipe that cannot be exported, RuntimeUnavailable without the libraries.
    """
    with _quiet():
        for library in ("litert_torch", "ai_edge_quantizer"):
            require(library, extra=EXTRA)
    if plan.recipe.precision not in PRECISIONS:
        raise ExportError(
            f"precision is {plan.recipe.precision}, expected one of: {', '.join(PRECISIONS)}. Choose another target."
        )
    check_known(plan.recipe.float_units, units(model))
    if plan.recipe.precision == "int8" and not plan.calibration:
        raise ExportError("int8 needs photos for the ranges of its activations, got none. Give some as calibration.")
    files = _quantized(_converted(model, plan.sizes), plan)
    check_contract(model.spec, describe(files), EXTRA)
    return Exported(files, {PROMPTS: list(plan.sizes.prompts), POINTS: list(plan.sizes.points)}, TOOLS)


# -- conversion --------------------------------------------------------------------------------------------------------

_last: tuple[object, dict[str, bytes]] = None, {}


def _converted(model: Sam, sizes: Sizes) -> dict[str, bytes]:
    """Both files in float32. The last result is kept: a search for a recipe exports one model many times, at the
    minute that each conversion takes."""
    global _last
    key = fingerprint(model), sizes
    if _last[0] != key:
        model = exported_values(model, "float32")
        _last = key, {ENCODER_NAME: _convert_encoder(model), DECODER_NAME: _convert_decoder(model, sizes)}
    return _last[1]


class _Encoder(nn.Module):
    """Its layers are called what `units` calls them, from the root on."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.image_encoder = model.image_encoder

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.image_encoder(image)  # type: ignore[no-any-return]


def _convert_encoder(model: Sam) -> bytes:
    encoder = _Encoder(model)
    data = _convert({ENCODE_SIGNATURE: (encoder, (example_image(model.spec),))})
    scopes = {_scope(encoder, name): name for name in units(model)}
    return _tidy(data, *tensor_names(model.spec, "encoder"), scopes)


def _convert_decoder(model: Sam, sizes: Sizes) -> bytes:
    inputs, _ = contract_tensors(model.spec)["decoder"]
    decoder, signatures = Decoder(model), {}
    for prompts in sizes.prompts:
        for points in sizes.points:
            shapes = [[{PROMPTS: prompts, POINTS: points}.get(str(n), n) for n in t.shape] for t in inputs]
            example = [torch.zeros(*(int(n) for n in shape)) for shape in shapes]
            signatures[decode_signature(prompts, points)] = decoder, tuple(example)
    return _tidy(_convert(signatures), *tensor_names(model.spec, "decoder"), {})


def _convert(signatures: Mapping[str, tuple[nn.Module, tuple[Tensor, ...]]]) -> bytes:
    """Signature name -> (module, example inputs), to the bytes of one file."""
    try:
        with _quiet(), torch.no_grad():
            import litert_torch

            converter: Any = litert_torch
            for name, (module, example) in signatures.items():
                converter = converter.signature(name, module.eval(), example)
            return bytes(converter.convert().model_content())
    except Exception as error:  # torch.export, MLIR and flatbuffers all have their own
        reason = first_line(error)
        raise ExportError(
            f"litert_torch cannot convert this model ({reason}). Use the library versions of the {EXTRA} extra; the "
            "format holds less than 2 GB."
        ) from error


def _scope(root: nn.Module, unit: str) -> str:
    """What the converter calls a module: each called module on the way to it as "package.Class_name"."""
    module, parts = root, []
    for name in unit.split("."):
        module = module.get_submodule(name)
        if not isinstance(module, nn.ModuleList):  # lists are not called
            kind = type(module)
            parts.append(f"{kind.__module__}.{kind.__qualname__}_{name}")
    return "/".join(parts)


def _tidy(data: bytes, inputs: tuple[str, ...], outputs: tuple[str, ...], scopes: dict[str, str]) -> bytes:
    """The contract's names on every signature, short names inside, and no more than that.

    scopes: what the converter calls a unit -> the unit's name. Raises ExportError where not each is there once.
    """
    model = _flatbuffer().read_model_from_bytearray(data)
    found: list[str] = []
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        prefix = str(signature.subgraphIndex or "")  # tensors of different signatures have different names
        found += _name_tensors(model, graph, scopes, prefix)
        graph.name = signature.signatureKey
        for maps, names, indices in (
            (signature.inputs, inputs, graph.inputs),
            (signature.outputs, outputs, graph.outputs),
        ):
            if not len(maps) == len(names) == len(indices):
                raise ExportError(f"the converter made {len(indices)} tensors of {', '.join(names)}. {_VERSIONS}")
            for entry, name, index in zip(maps, names, indices, strict=True):
                entry.name, entry.tensorIndex = name, index
                graph.tensors[index].name = name + (f"_{prefix}" if prefix else "")
    if sorted(found) != sorted(scopes.values()):
        odd = sorted(set(found) ^ set(scopes.values()))
        raise ExportError(f"units and operators do not agree: {', '.join(odd)[:200]}. {_VERSIONS}")
    return _bytes(model)


_VERSIONS = f"The converter has changed: use the library versions of the {EXTRA} extra."


def _name_tensors(model: Any, graph: Any, scopes: dict[str, str], prefix: str) -> list[str]:
    """Name the outputs of operators with weights by their unit, all others by number. Returns the units found."""
    found: list[str] = []
    named: dict[int, str] = {}
    for operator in graph.operators:
        if _op_name(model, operator) in UNIT_OPS:
            weight = re.sub(r";\d*$", "", bytes(graph.tensors[operator.inputs[1]].name).decode())
            if unit := next((unit for scope, unit in scopes.items() if weight.endswith("/" + scope)), None):
                found.append(unit)
                roles = ("", ".weight", ".bias")
                for index, role in zip((operator.outputs[0], *operator.inputs[1:3]), roles, strict=False):
                    named.setdefault(index, unit + role)  # a zero bias may serve several units
    for index, tensor in enumerate(graph.tensors):
        tensor.name = named.get(index, f"t{prefix}_{index}")
    return found


def _flatbuffer() -> Any:
    """The module that reads and writes the format as objects; LiteRT's own, by way of the quantizer."""
    with _quiet():
        from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    return tfl_flatbuffer_utils.flatbuffer_utils


def _op_name(model: Any, operator: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    return OPERATORS.get(max(code.builtinCode, code.deprecatedBuiltinCode), ("",))[0]


def _bytes(model: Any) -> bytes:
    """Constants are inside the flatbuffer afterwards, and nothing is there of the tools that made the model."""
    model.description = "sam_edge"
    model.metadata = [entry for entry in model.metadata or [] if bytes(entry.name).decode() in METADATA]
    for buffer in model.buffers:
        if buffer.data is not None:  # anything else than an array is written byte by byte, in minutes
            buffer.data = np.frombuffer(buffer.data, np.uint8)
    return bytes(_flatbuffer().convert_object_to_bytearray(model))


def _packed(data: bytes) -> bytes:
    """The same model with each constant once: signatures come with tables of their own that hold equal values.

    Only done in the end, since the quantizer may give equal constants different scales.
    """
    model = _flatbuffer().read_model_from_bytearray(data)
    first: dict[tuple[int, bytes], int] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if tensor.buffer and data is not None:
                key = len(data), hashlib.sha256(bytes(data)).digest()
                tensor.buffer = first.setdefault(key, tensor.buffer)
    model.metadata = model.metadata or []
    used = {t.buffer for g in model.subgraphs for t in g.tensors} | {entry.buffer for entry in model.metadata}
    order = [0, *sorted(used - {0})]  # buffer 0 is the empty one
    model.buffers = [model.buffers[index] for index in order]
    number = {index: position for position, index in enumerate(order)}
    for item in (*(t for g in model.subgraphs for t in g.tensors), *model.metadata):
        item.buffer = number[item.buffer]
    return _bytes(model)


# -- quantization ------------------------------------------------------------------------------------------------------


def _quantized(files: dict[str, bytes], plan: Plan) -> dict[str, bytes]:
    recipe = plan.recipe
    if recipe.precision == "fp32":
        return {name: _packed(data) for name, data in files.items()}
    # The decoder's convolutions are few and small, so that int8 would only cost it accuracy.
    decoder = "int8-dynamic" if recipe.precision == "int8-dynamic" else "fp16"
    return {
        ENCODER_NAME: _quantize(files[ENCODER_NAME], recipe, plan.calibration),
        DECODER_NAME: _quantize_decoder(files[DECODER_NAME], decoder),
    }


@functools.lru_cache(maxsize=1)  # for a search, whose candidates differ in the encoder alone
def _quantize_decoder(data: bytes, precision: str) -> bytes:
    return _quantize(data, Recipe("tflite", precision), ())


def _quantize(data: bytes, recipe: Recipe, calibration: Sequence[Float32]) -> bytes:
    try:
        with _quiet():
            from ai_edge_quantizer import quantizer

            work = quantizer.Quantizer(bytearray(data))
            _add_rules(work, data, recipe)
            ranges = None
            if work.need_calibration:
                samples = {ENCODE_SIGNATURE: [{IMAGE: np.ascontiguousarray(image)} for image in calibration]}
                ranges = work.calibrate(samples, num_threads=os.cpu_count() or 1)
            result = work.quantize(ranges, enable_progress_report=False, enable_progress_bar=False).quantized_model
    except Exception as error:  # the quantizer raises what Python has
        reason = first_line(error)
        raise ExportError(f"ai_edge_quantizer cannot make {recipe.precision} ({reason}). {_VERSIONS}") from error
    return _packed(bytes(result))


def _add_rules(work: Any, data: bytes, recipe: Recipe) -> None:
    """The later of two rules for an operator counts."""
    from ai_edge_quantizer.qtyping import TFLOperationName as Op

    def store_as_float16(operators: str) -> None:
        work.add_weight_only_config(operators, Op.ALL_SUPPORTED, 16, algorithm_key="float_casting")

    store_as_float16(EVERY)
    if recipe.precision == "int8-weights":
        work.add_weight_only_config(EVERY, Op.ALL_SUPPORTED, 8)
    elif recipe.precision == "int8-dynamic":
        work.add_dynamic_config(EVERY, Op.FULLY_CONNECTED, 8)
    elif recipe.precision == "int8":
        if _has_attention(data):
            for operator in (Op.CONV_2D, Op.DEPTHWISE_CONV_2D, Op.FULLY_CONNECTED):
                work.add_static_config(EVERY, operator, 8, 8)
        else:
            work.add_static_config(EVERY, Op.ALL_SUPPORTED, 8, 8)
            for tensor in (Op.INPUT, Op.OUTPUT):  # or they would be int8 themselves
                work.update_quantization_recipe(EVERY, tensor, algorithm_key="no_quantize")
    for unit in recipe.float_units:
        store_as_float16(rf"^{re.escape(unit)}(;|$)")


def _has_attention(data: bytes) -> bool:
    return read_tflite_structure(data, ENCODER_NAME).op_counts["SOFTMAX"] > 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Converter and quantizer print progress, warn of their own internals, and log from C++ past Python's streams."""
    logging.disable(logging.WARNING)
    with contextlib.ExitStack() as stack:
        stack.callback(logging.disable, logging.NOTSET)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for stream in (contextlib.redirect_stdout, contextlib.redirect_stderr):
            stack.enter_context(stream(io.StringIO()))
        saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, saved)
        stack.callback(os.dup2, saved, 2)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
