"""A `Sam` as two ONNX files, encoder.onnx and decoder.onnx, with the contract's names, shapes and dynamic sizes.

The only file that imports onnx. Weights can be stored as float16 while everything is computed in float32: such a weight
is a float16 initializer and a Cast, which runtimes fold when they load. The model's weights are rounded first
(`exported_values`), and only what float16 then holds exactly is stored so, hence torch with those values and the files
agree as closely as with float32 weights.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from sam_edge.contract import (
    HIGH_RES_FEATURES,
    IMAGE,
    IMAGE_EMBEDDINGS,
    LABEL_BOX_BOTTOM_RIGHT,
    LABEL_BOX_TOP_LEFT,
    LABEL_EMPTY,
    LABEL_FOREGROUND,
    LABEL_PADDING,
    PREDICTION_OUTPUTS,
    PROMPT_INPUTS,
)
from sam_edge.errors import ExportError, require
from sam_edge.export.onnx_quantization import quantize_dynamic, quantize_static, quantize_weights
from sam_edge.export.plan import Exported, Plan
from sam_edge.export.units import unit_weights
from sam_edge.manifest import POINTS, PROMPTS, contract_tensors
from sam_edge.model.nano import ScaledConv
from sam_edge.model.sam import Sam
from sam_edge.onnx_check import read_onnx_structure

__all__ = [
    "DECODER_NAME",
    "ENCODER_NAME",
    "OPSET",
    "PRECISIONS",
    "Weights",
    "export",
    "exported_values",
    "to_onnx_bytes",
]

Weights: TypeAlias = Literal["float16", "float32"]

ENCODER_NAME, DECODER_NAME = "encoder.onnx", "decoder.onnx"
PRECISIONS = ("fp32", "fp16", "int8", "int8-dynamic", "int8-weights")
TOOLS = ("onnx", "onnxscript", "onnxslim", "onnxruntime")
OPSET = 20
OPSETS = range(18, 23)  # tried; below 18 the exporter says nothing and writes 18
MAX_KEPT, MAX_KEPT_BYTES = 3, 100_000_000
MIN_ELEMENTS = 256  # smaller tensors stay float32: biases, norms, tokens, the position encoding's matrix
MAX_PROMPTS, MAX_POINTS = 4096, 256  # bounds for torch.export, which needs some; the files themselves have none


def export(model: Sam, plan: Plan) -> Exported:
    """See `plan.py`. int8 is the encoder's: convolutions and matrix products with their activations; the decoder then
    is stored as float16. Raises ExportError."""
    precision, kept = plan.recipe.precision, plan.recipe.float_units
    if precision in ("fp32", "fp16"):
        return Exported(to_onnx_bytes(model, weights="float16" if precision == "fp16" else "float32"), tools=TOOLS)
    files = to_onnx_bytes(model, weights="float32")
    encoder, decoder = files[ENCODER_NAME], files[DECODER_NAME]
    if precision == "int8":
        encoder = quantize_static(encoder, plan.calibration, unit_weights(model), kept)
        decoder = to_onnx_bytes(model, weights="float16")[DECODER_NAME]
    elif precision == "int8-dynamic":
        encoder, decoder = quantize_dynamic(encoder), quantize_dynamic(decoder)
    else:
        encoder, decoder = quantize_weights(encoder, unit_weights(model), kept), quantize_weights(decoder, {}, ())
    return Exported({ENCODER_NAME: encoder, DECODER_NAME: decoder}, tools=TOOLS)


def to_onnx_bytes(model: Sam, *, weights: Weights = "float16", opset: int = OPSET) -> dict[str, bytes]:
    """File name -> content of both graphs; the same model always gives the same bytes. Raises ExportError.

    The last results are kept: precisions and targets of one model (OpenVINO starts here, too) share a trace of 20 s.
    """
    key = (_fingerprint(model), weights, opset)
    if key not in _kept:
        files = _to_onnx_bytes(model, weights, opset)
        if sum(map(len, files.values())) > MAX_KEPT_BYTES:
            return files
        while len(_kept) >= MAX_KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[key] = files
    return dict(_kept[key])


_kept: dict[tuple[str, Weights, int], dict[str, bytes]] = {}


def _fingerprint(model: Sam) -> str:
    """Of all that decides the graphs: the class, the configuration and the values."""
    found = hashlib.sha256(repr((type(model), model.config, model.spec)).encode())
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _to_onnx_bytes(model: Sam, weights: Weights, opset: int) -> dict[str, bytes]:
    require("onnx", extra="export")
    if opset not in OPSETS:
        raise ExportError(f"opset is {opset}, expected {OPSETS.start} to {OPSETS.stop - 1}. Leave it out for {OPSET}.")
    model = exported_values(model, weights)
    size = model.spec.image_size
    image = torch.zeros(1, 3, size, size)
    with torch.no_grad():
        embeddings = model.encode(image)
    embedding_names = (IMAGE_EMBEDDINGS, *HIGH_RES_FEATURES)[: len(embeddings)]
    prompts, points = (torch.export.Dim(n, min=1, max=m) for n, m in ((PROMPTS, MAX_PROMPTS), (POINTS, MAX_POINTS)))
    sizes = (*(None for _ in embeddings), {0: prompts, 1: points}, {0: prompts, 1: points}, {0: prompts}, {0: prompts})
    traced = {
        ENCODER_NAME: _trace(_Encoder(model), (image,), (IMAGE,), embedding_names, None, opset),
        DECODER_NAME: _trace(
            _Decoder(model),
            (*embeddings, *_example_prompts(model)),
            (*embedding_names, *PROMPT_INPUTS),
            PREDICTION_OUTPUTS,
            sizes,
            opset,
        ),
    }
    files = {name: _finish(graph, name, weights) for name, graph in traced.items()}
    for (inputs, outputs), (name, data) in zip(contract_tensors(model.spec).values(), files.items(), strict=True):
        found = read_onnx_structure(data, name)
        if (tuple(found.inputs), tuple(found.outputs), found.opset) != (inputs, outputs, opset):
            raise ExportError(
                f"{name} was exported with {found.inputs}, {found.outputs} at opset {found.opset}, expected {inputs}, "
                f"{outputs} at {opset}. The exporter has changed: use the library versions of the export extra."
            )
    return files


def exported_values(model: Sam, weights: Weights) -> Sam:
    """A copy of the model on the CPU with exactly the values that its files will hold.

    nano's fixed scales are multiplied into their convolutions; with weights="float16" every parameter of two or more
    dimensions and more than MIN_ELEMENTS elements is rounded to float16. Raises ExportError where one is too large.
    """
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, ScaledConv):
            module.weight.mul_(module.scale)
            module.scale.fill_(1)
    if weights == "float16":
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and parameter.numel() > MIN_ELEMENTS:
                parameter.copy_(parameter.half())
                if not parameter.isfinite().all():
                    raise ExportError(f'{name} has weights past float16\'s 65504. Export with weights="float32".')
    return model


class _Encoder(nn.Module):
    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.model.encode(image)


class _Decoder(nn.Module):
    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        coords, labels, mask_input, has_mask_input = tensors[-len(PROMPT_INPUTS) :]
        return self.model.decode(tensors[: -len(PROMPT_INPUTS)], coords, labels, mask_input, has_mask_input)


def _example_prompts(model: Sam) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two prompts of three slots: a size of 1 would be taken for fixed, and equal sizes for one size."""
    size, mask_size = model.spec.image_size, model.spec.mask_size
    coords = torch.tensor([[0.25, 0.25], [0.75, 0.5], [0.0, 0.0]]).mul(size).repeat(2, 1, 1)
    labels = torch.tensor(
        [
            [LABEL_FOREGROUND, LABEL_PADDING, LABEL_EMPTY],
            [LABEL_BOX_TOP_LEFT, LABEL_BOX_BOTTOM_RIGHT, LABEL_EMPTY],
        ]
    )
    return coords, labels.float(), torch.zeros(2, 1, mask_size, mask_size), torch.tensor([0.0, 1.0])


def _trace(
    module: nn.Module, inputs: tuple[Tensor, ...], input_names: Any, output_names: Any, sizes: Any, opset: int
) -> Any:
    """An onnx.ModelProto from torch.export, with all data inside."""
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                inputs,
                dynamo=True,
                opset_version=opset,
                external_data=False,
                verbose=False,
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_shapes=None if sizes is None else (sizes,),
            )
    except Exception as error:  # the exporter wraps whatever happens in exceptions of several private modules
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
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
