"""What every converter starts from: a `Sam`'s two graphs as modules of plain tensors, and the values they will hold.

Also the check of what came out against the contract. Where a converter needs a module of its own, it is in that
converter's file: LiteRT names layers by it, Core ML names inputs by its arguments.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from sam_edge.contract import (
    LABEL_BOX_BOTTOM_RIGHT,
    LABEL_BOX_TOP_LEFT,
    LABEL_EMPTY,
    LABEL_FOREGROUND,
    LABEL_PADDING,
    PROMPT_INPUTS,
    ModelSpec,
)
from sam_edge.errors import ExportError
from sam_edge.manifest import POINTS, PROMPTS, Graph, contract_tensors
from sam_edge.model.sam import Sam
from sam_edge.model.scaled_conv import fold_scales

__all__ = [
    "MIN_ELEMENTS",
    "Decoder",
    "Encoder",
    "Weights",
    "check_contract",
    "example_image",
    "example_prompts",
    "exported_values",
    "fingerprint",
    "free_sizes",
    "tensor_names",
]

Weights: TypeAlias = Literal["float16", "float32"]

MIN_ELEMENTS = 256  # smaller tensors stay float32: biases, norms, tokens, the position encoding's matrix


class Encoder(nn.Module):
    """The contract's `encode`; the argument's name is the input's."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.model.encode(image)


class Decoder(nn.Module):
    """The contract's `decode`: the embedding's tensors, as many as the model has, then the prompts'."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        coords, labels, mask_input, has_mask_input = tensors[-len(PROMPT_INPUTS) :]
        return self.model.decode(tensors[: -len(PROMPT_INPUTS)], coords, labels, mask_input, has_mask_input)


def tensor_names(spec: ModelSpec, graph: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the inputs and of the outputs of "encoder" or "decoder"."""
    inputs, outputs = contract_tensors(spec)[graph]
    return tuple(tensor.name for tensor in inputs), tuple(tensor.name for tensor in outputs)


def example_image(spec: ModelSpec) -> Tensor:
    """(1, 3, S, S)"""
    return torch.zeros(1, 3, spec.image_size, spec.image_size)


def example_prompts(spec: ModelSpec) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two prompts of three slots: a size of 1 would be taken for fixed, and equal sizes for one size."""
    coords = torch.tensor([[0.25, 0.25], [0.75, 0.5], [0.0, 0.0]]).mul(spec.image_size).repeat(2, 1, 1)
    labels = torch.tensor(
        [
            [LABEL_FOREGROUND, LABEL_PADDING, LABEL_EMPTY],
            [LABEL_BOX_TOP_LEFT, LABEL_BOX_BOTTOM_RIGHT, LABEL_EMPTY],
        ]
    )
    mask_input = torch.zeros(2, 1, spec.mask_size, spec.mask_size)
    return coords, labels.float(), mask_input, torch.tensor([0.0, 1.0])


def free_sizes(max_prompts: int, max_points: int) -> tuple[dict[int, Any], ...]:
    """Of the four prompt tensors, axis -> free size, as torch.export wants it said; it needs bounds."""
    prompts = torch.export.Dim(PROMPTS, min=1, max=max_prompts)
    points = torch.export.Dim(POINTS, min=1, max=max_points)
    return {0: prompts, 1: points}, {0: prompts, 1: points}, {0: prompts}, {0: prompts}


def exported_values(model: Sam, weights: Weights) -> Sam:
    """A copy of the model on the CPU with exactly the values that its files will hold.

    nano's fixed scales are multiplied into their convolutions; with weights="float16" every parameter of two or more
    dimensions and more than MIN_ELEMENTS elements is rounded to float16. Raises ExportError where one is too large.
    """
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    fold_scales(model)
    if weights == "float16":
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and parameter.numel() > MIN_ELEMENTS:
                parameter.copy_(parameter.half())
                if not parameter.isfinite().all():
                    raise ExportError(f'{name} has weights past float16\'s 65504. Export with weights="float32".')
    return model


def fingerprint(model: Sam) -> str:
    """Of all that decides the graphs: the class, the configuration and the values."""
    found = hashlib.sha256(repr((type(model), model.config, model.spec)).encode())
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def check_contract(spec: ModelSpec, graphs: Mapping[str, Graph], extra: str) -> None:
    """Raises ExportError where a file's tensors are not the contract's. extra: what installs the converter."""
    for name, (inputs, outputs) in contract_tensors(spec).items():
        got = graphs[name]
        if (got.inputs, got.outputs) != (inputs, outputs):
            raise ExportError(
                f"{got.file} was exported with {got.inputs}, {got.outputs}, expected {inputs}, {outputs}. "
                f"The converter has changed: use the library versions of the {extra} extra."
            )
