"""The units of quantization: the encoder's convolutions and linear layers, by module name, in the order they run.

Converters reorder and rename operators, so a unit's operator is found by its weights: `matched` compares values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sam_edge.errors import ExportError
from sam_edge.model.sam import Sam
from sam_edge.model.scaled_conv import ScaledConv, folded_weight

__all__ = ["check_known", "matched", "unit_weights", "units"]

SAME = 2e-3  # of two signatures: half-precision storage moves one by less, another layer's lies 0.01 and more away
KINDS = (ScaledConv, nn.Conv2d, nn.Linear, nn.ConvTranspose2d)
_Node = TypeVar("_Node")
Weights = NDArray[np.float32]


def units(model: Sam) -> list[str]:
    """Module names as in `model.named_modules()`: "image_encoder.trunk.stem", ... Runs the encoder once."""
    return list(unit_weights(model))


def unit_weights(model: Sam) -> dict[str, Weights]:
    """Unit -> its weights as torch holds them, nano's fixed scales multiplied in. Runs the encoder once."""
    seen: dict[str, Weights] = {}
    names = {module: name for name, module in model.image_encoder.named_modules(prefix="image_encoder")}

    def note(module: nn.Module, *_: object) -> None:
        weight = folded_weight(module) if isinstance(module, ScaledConv) else module.weight
        assert isinstance(weight, torch.Tensor)
        seen.setdefault(names[module], weight.detach().float().cpu().numpy())

    hooks = [module.register_forward_hook(note) for module in names if isinstance(module, KINDS)]
    try:
        size = model.spec.image_size
        with torch.inference_mode():
            model.encode(torch.zeros(1, 3, size, size, device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def matched(weights: dict[str, Weights], nodes: Iterable[tuple[_Node, Weights]]) -> dict[str, _Node]:
    """Unit -> the operator whose weights hold the same values. Raises ExportError for a unit without one.

    Neither layout nor a batch norm that was multiplied in matters. Two units with the same values would be one to this;
    trained and random weights have none.
    """
    candidates: dict[int, list[tuple[_Node, list[Weights]]]] = {}
    for node, values in nodes:
        axes = {0, min(1, values.ndim - 1), values.ndim - 1}
        candidates.setdefault(values.size, []).append((node, [_signature(values, axis) for axis in axes]))
    found: dict[str, _Node] = {}
    for unit, values in weights.items():
        left = candidates.get(values.size, [])
        expected = _signature(values, 0)
        apart = [min(float(np.abs(s - expected).max()) for s in signatures) for _, signatures in left]
        if not apart or min(apart) > SAME:
            raise ExportError(
                f"the encoder's unit {unit} has no operator in the exported graph. "
                "The converter has changed: use the library versions of the export extras."
            )
        found[unit] = left.pop(int(np.argmin(apart)))[0]
    return found


def check_known(float_units: Sequence[str], known: Iterable[str]) -> None:
    """Raises ExportError for a recipe's unit that the encoder does not have."""
    names = list(known)
    unknown = [unit for unit in float_units if unit not in names]
    if unknown:
        raise ExportError(
            f"the recipe keeps {unknown[0]!r:.80} in float, but the encoder has no such unit. Units are "
            f"{', '.join(names[:3])}, ...; export/units.py lists them."
        )


def _signature(values: Weights, axis: int) -> Weights:
    """Magnitudes, each channel of `axis` scaled to length 1 (what a folded batch norm changes), sorted and sampled."""
    rows = np.abs(np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).astype(np.float32))
    rows = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-20)
    ordered = np.sort(rows.reshape(-1))
    places = np.linspace(0, ordered.size - 1, min(ordered.size, 1024)).astype(int)
    return np.asarray(ordered[places], np.float32)
