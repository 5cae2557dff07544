"""Computes a Core ML program in NumPy, operator by operator: slow, and the same on every system.

It reads what `coreml_check` let through, and so needs neither Core ML nor coremltools. A result that the file types as
float16 is rounded to it after its operator (and kept in float32), as a device that computes in half precision would at
best: sums inside an operator are float32 here, a device may add in half precision too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sam_edge.errors import ArtifactError
from sam_edge.mil_program import Operation, Program
from sam_edge.mil_values import MilType, MilValue
from sam_edge.runtimes.mil_half import rounded_to_half
from sam_edge.runtimes.mil_ops import OPS, Array

__all__ = ["Interpreter", "Observer"]

Observer = Callable[[str, Array], None]

# Half precision is held in float32, see above; what is rounded to it is decided by type, not by the array.
HELD = {"float16": "float32"}
# Their results are zeros and what is in their arguments, which have been rounded: a fifth of a decoder's values.
MOVES = ("concat", "expand_dims", "relu", "reshape", "slice_by_index", "split", "squeeze", "stack", "tile", "transpose")
WEIGHT_OPS = ("const", "constexpr_affine_dequantize", "constexpr_cast", "constexpr_lut_to_dense")


class Interpreter:
    """Holds a program's constants as arrays. Raises ArtifactError for a form of an operator it does not know."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._constants: dict[str, Any] = {}
        self._steps: list[Operation] = []
        for op in program.operations:
            if op.type in WEIGHT_OPS:
                (name,) = op.outputs
                self._constants[name] = self._constant(op, op.outputs[name])
            else:
                self._steps.append(op)
        self._last_use = {
            name: index
            for index, op in enumerate(self._steps)
            for names in op.inputs.values()
            for name in _names(names)
        }

    def run(self, feeds: Mapping[str, Array], observe: Observer | None = None) -> list[Array]:
        """Inputs by name, float32 -> outputs in the program's order. `observe` sees every result's name and array."""
        known: dict[str, Any] = dict(feeds)
        for index, op in enumerate(self._steps):
            arguments = {key: self._argument(key, names, known) for key, names in op.inputs.items()}
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # infinities show in the outputs
                results = OPS[op.type](**arguments)
            if len(op.outputs) == 1:
                results = (results,)
            for (name, kind), result in zip(op.outputs.items(), results, strict=True):
                known[name] = _typed(result, kind, exact=op.type in MOVES)
                if observe is not None:
                    observe(name, known[name])
            for names in op.inputs.values():  # a ViT's attention maps take gigabytes together
                for name in _names(names):
                    if self._last_use[name] == index and name in known and name not in self.program.outputs:
                        del known[name]
        return [known[name] if name in known else self._constants[name] for name in self.program.outputs]

    def _constant(self, op: Operation, kind: MilType) -> Any:
        if op.type == "const":
            return _array(op.attributes["val"])
        parameters = {key: _array(value) for key, value in op.attributes.items() if key != "name"}
        parameters |= {key: self._argument(key, names, {}) for key, names in op.inputs.items()}
        return _typed(OPS[op.type](**parameters), kind)

    def _argument(self, key: str, names: tuple[str | MilValue, ...], known: Mapping[str, Any]) -> Any:
        found = [self._lookup(name, known) for name in names]
        return found if key == "values" else found[0]  # the one parameter that is a list

    def _lookup(self, name: str | MilValue, known: Mapping[str, Any]) -> Any:
        if isinstance(name, MilValue):
            return _array(name)
        return known[name] if name in known else self._constants[name]


def _names(names: tuple[str | MilValue, ...]) -> list[str]:
    return [name for name in names if isinstance(name, str)]


def _array(value: MilValue) -> Any:
    """A constant as an array, or as a text."""
    if value.type.dtype == "string":
        assert isinstance(value.data, tuple)
        return value.data[0]
    if isinstance(value.data, tuple):
        array = np.array(value.data).astype(value.type.dtype)
    else:
        array = np.frombuffer(value.data, np.dtype(value.type.dtype).newbyteorder("<"))
    return array.astype(HELD.get(value.type.dtype, value.type.dtype)).reshape(value.type.shape)


def _typed(result: Any, kind: MilType, *, exact: bool = False) -> Array:
    """As the type that the file says: rounded to half precision, unless it is `exact`; its shape checked."""
    array = np.asarray(result)
    if kind.dtype == "float16" and not exact:
        with np.errstate(over="ignore", invalid="ignore"):
            array = rounded_to_half(array)
    array = array.astype(HELD.get(kind.dtype, kind.dtype), copy=False)
    expected = tuple(got if size is None else size for size, got in zip(kind.shape, array.shape, strict=False))
    if len(kind.shape) != array.ndim or array.shape != expected:
        raise ArtifactError(
            f"a result has shape {array.shape}, expected {kind.shape} as the file says. Export the model again."
        )
    return array
