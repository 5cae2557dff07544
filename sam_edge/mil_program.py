"""Core ML's ML Programs, read from MIL.proto's messages: one function of allowed operators, each of earlier results.

`runtimes/mil_interpreter.py` computes what comes out where there is no Core ML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sam_edge.mil_values import MilType, MilValue, ValueReader, Weights
from sam_edge.protobuf import WireReader, as_bytes, as_text, message, refuse

__all__ = ["OPERATORS", "OPSET", "Operation", "Program", "ProgramReader"]

OPSET = "CoreML7"  # iOS 17 and macOS 14

# What these models are made of. Each has its arithmetic in runtimes/mil_ops.py, so that every file that is let through
# can also be checked where there is no Core ML.
OPERATORS = {
    "const", "constexpr_affine_dequantize", "constexpr_cast", "constexpr_lut_to_dense", "quantize", "dequantize",
    "abs", "cast", "clip", "cos", "exp", "gelu", "relu", "relu6", "rsqrt", "sigmoid", "sin", "softmax", "sqrt",
    "square", "tanh",
    "add", "equal", "floor_div", "greater", "less", "logical_and", "logical_not", "logical_or", "maximum", "minimum",
    "mul", "not_equal", "pow", "real_div", "sub", "select",
    "conv", "conv_transpose", "linear", "matmul", "avg_pool", "batch_norm", "layer_norm",
    "reduce_max", "reduce_mean", "reduce_min", "reduce_sum", "upsample_bilinear", "upsample_nearest_neighbor",
    "concat", "expand_dims", "gather", "pad", "reshape", "shape", "slice_by_index", "split", "squeeze", "stack", "tile",
    "transpose",
}  # fmt: skip

PROGRAM = message("Program", "1v 2b* 4b*")
ENTRY = message("map entry", "1b 2b")
FUNCTION = message("Function", "1b* 2b 3b*")
BLOCK = message("Block", "2b* 3b*")
OPERATION = message("Operation", "1b 2b* 3b* 5b*")
ARGUMENT = message("Argument", "1b*")
BINDING = message("Binding", "1b 2b")
NAMED_TYPE = message("NamedValueType", "1b 2b")


@dataclass(frozen=True)
class Operation:
    """`inputs`: parameter -> names of earlier results, or constants. `outputs`: name -> type."""

    type: str
    inputs: dict[str, tuple[str | MilValue, ...]]
    outputs: dict[str, MilType]
    attributes: dict[str, MilValue]


@dataclass(frozen=True)
class Program:
    """One graph. `largest`: what its flexible sizes may be at most, "prompts" and "points"; empty if all are fixed."""

    inputs: dict[str, MilType]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]
    largest: dict[str, int] = field(default_factory=dict)

    @property
    def types(self) -> dict[str, MilType]:
        """Of all named results and inputs."""
        return self.inputs | {name: kind for op in self.operations for name, kind in op.outputs.items()}


class ProgramReader:
    def __init__(self, wire: WireReader, weights: Weights) -> None:
        self.wire = wire
        self.values = ValueReader(wire, weights)

    def program(self, data: memoryview, largest: dict[str, int]) -> Program:
        """`largest`: see `Program`."""
        functions: dict[str, memoryview] = {}
        for number, value in self.wire.fields(data, PROGRAM):
            if number == 2:  # 1 is a version, 4 says who built it
                functions |= self.entry(as_bytes(value), functions)
        if list(functions) != ["main"]:
            refuse(f"it has the functions {str(list(functions))[:100]}, expected main")
        inputs: dict[str, MilType] = {}
        blocks: dict[str, memoryview] = {}
        for number, value in self.wire.fields(functions["main"], FUNCTION):
            if number == 1:
                inputs |= self.named_type(as_bytes(value), inputs)
            elif number == 3:
                blocks |= self.entry(as_bytes(value), blocks)
            elif as_text(value) != OPSET:
                refuse(f"its opset is {as_text(value)!r:.60}, expected {OPSET}")
        if list(blocks) != [OPSET]:
            refuse(f"it is for {str(list(blocks))[:100]}, expected {OPSET}")
        return self.block(blocks[OPSET], inputs, largest)

    def block(self, data: memoryview, inputs: dict[str, MilType], largest: dict[str, int]) -> Program:
        known = dict(inputs)
        operations, outputs = [], []
        for number, value in self.wire.fields(data, BLOCK):
            if number == 3:
                operations.append(self.operation(as_bytes(value), known))
            else:
                outputs.append(as_text(value))
        if not outputs or len(set(outputs)) < len(outputs) or not known.keys() >= set(outputs):
            refuse("its outputs are not results of its operators")
        return Program(inputs, tuple(operations), tuple(outputs), largest)

    def operation(self, data: memoryview, known: dict[str, MilType]) -> Operation:
        kind = ""
        inputs: dict[str, tuple[str | MilValue, ...]] = {}
        outputs: dict[str, MilType] = {}
        attributes: dict[str, MilValue] = {}
        for number, value in self.wire.fields(data, OPERATION):
            if number == 1:
                kind = as_text(value)
            elif number == 2:
                for key, argument in self.entry(as_bytes(value), inputs).items():
                    inputs[key] = self.argument(argument, known)
            elif number == 3:
                outputs |= self.named_type(as_bytes(value), known, outputs)
            else:
                for key, constant in self.entry(as_bytes(value), attributes).items():
                    attributes[key] = self.values.value(constant)
        if kind not in OPERATORS:
            refuse(f"operator {kind!r:.60} is not allowed")
        if kind == "const" and (len(outputs) != 1 or "val" not in attributes):
            refuse("a constant has no value")
        if kind == "const" and attributes["val"].type != next(iter(outputs.values())):
            refuse("a constant's value is of another type than it says")
        known |= outputs
        return Operation(kind, inputs, outputs, attributes)

    def entry(self, data: memoryview, seen: Mapping[str, object]) -> dict[str, memoryview]:
        """A map's key and value; protobuf keeps the last of equal keys, here the second one is refused."""
        key, content = "", memoryview(b"")
        for number, value in self.wire.fields(data, ENTRY):
            if number == 1:
                key = as_text(value)
            else:
                content = as_bytes(value)
        if key in seen:
            refuse(f"{key!r:.60} is there twice")
        return {key: content}

    def argument(self, data: memoryview, known: dict[str, MilType]) -> tuple[str | MilValue, ...]:
        found: list[str | MilValue] = []
        for _, binding in self.wire.fields(data, ARGUMENT):
            items = list(self.wire.fields(as_bytes(binding), BINDING))
            if len(items) != 1:
                refuse("an argument is no name and no value, or both")
            number, value = items[0]
            if number == 1 and as_text(value) not in known:
                refuse(f"{as_text(value)!r:.60} is used before it is computed")
            found.append(as_text(value) if number == 1 else self.values.value(as_bytes(value)))
        return tuple(found)

    def named_type(self, data: memoryview, *seen: Mapping[str, object]) -> dict[str, MilType]:
        name, kind = "", None
        for number, value in self.wire.fields(data, NAMED_TYPE):
            if number == 1:
                name = as_text(value)
            else:
                kind = self.values.type(as_bytes(value))
        if not name or any(name in names for names in seen) or kind is None:
            refuse(f"{name!r:.60} has no type, or is computed twice")
        return {name: kind}
