"""The operators of Core ML's ML Programs in NumPy, as far as these models use them: one function each, `OPS` by name.

Written after the definitions in coremltools (mil/ops/defs, iOS 15 to 17), to check files where there is no Core ML.
Every function takes its operator's parameters by their names, as arrays, and computes in float32; a parameter that the
file leaves out has the operator's own default. Activations are (n, C, h, w). Raises ArtifactError for forms of an
operator that are not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sam_edge.runtimes.mil_layers import (
    Array,
    avg_pool,
    batch_norm,
    conv,
    conv_transpose,
    integers,
    layer_norm,
    linear,
    matmul,
    only,
    softmax,
    upsample_bilinear,
    upsample_nearest_neighbor,
)

__all__ = ["OPS", "Array"]

# By the texts of `cast` and `quantize`; half precision is held in float32 (see mil_interpreter.py).
DTYPES: dict[str, Any] = {
    "bool": np.bool_, "fp16": np.float32, "fp32": np.float32, "int8": np.int8, "int16": np.int16, "int32": np.int32,
    "uint8": np.uint8, "uint16": np.uint16,
}  # fmt: skip


# Weights that are stored in fewer bits.


def constexpr_affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: Array) -> Array:
    """quantized_data int8 or uint8, scale and zero point one or one a slice of `axis` -> float32."""
    shape = [1] * quantized_data.ndim
    if scale.size > 1:
        shape[int(axis)] = scale.size
    zero = zero_point.astype(np.float32).reshape(shape if zero_point.size > 1 else [1] * quantized_data.ndim)
    result: Array = (quantized_data.astype(np.float32) - zero) * scale.astype(np.float32).reshape(shape)
    return result


def constexpr_lut_to_dense(indices: Array, lut: Array, shape: Array) -> Array:
    """indices (bytes,) uint8, log2(len(lut)) bits a weight, the lowest bits first -> lut[indices] of that shape."""
    bits = len(lut).bit_length() - 1
    count = math.prod(integers(shape))
    stream = np.unpackbits(indices, bitorder="little")[: count * bits].reshape(count, bits)
    result: Array = lut[stream @ (1 << np.arange(bits))].reshape(integers(shape))
    return result


def _per_axis(values: Array, ndim: int, axis: Array | None) -> Array:
    return values if axis is None or values.ndim == 0 else values.reshape([-1] + [1] * (ndim - 1 - int(axis) % ndim))


def quantize(
    input: Array, scale: Array, output_dtype: str, zero_point: Array | None = None, axis: Array | None = None
) -> Array:
    kind = DTYPES[output_dtype]
    zero = 0 if zero_point is None else _per_axis(zero_point, input.ndim, axis).astype(np.float32)
    limits = np.iinfo(kind)
    steps: Array = input / _per_axis(scale, input.ndim, axis).astype(np.float32)
    np.rint(steps, out=steps)
    steps += zero
    return np.clip(steps, limits.min, limits.max, out=steps).astype(kind)


def dequantize(input: Array, scale: Array, zero_point: Array | None = None, axis: Array | None = None) -> Array:
    zero = 0 if zero_point is None else _per_axis(zero_point, input.ndim, axis).astype(np.float32)
    result: Array = (input.astype(np.float32) - zero) * _per_axis(scale, input.ndim, axis).astype(np.float32)
    return result


# Elementwise.


def gelu(x: Array, mode: str = "EXACT") -> Array:
    if mode == "TANH_APPROXIMATION":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    if mode == "SIGMOID_APPROXIMATION":
        return x * sigmoid(1.702 * x)
    return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))))


# Chebyshev fit of erfc, Press et al., Numerical Recipes, second edition, section 6.2: relative error below 1.2e-7.
ERFC: tuple[float, ...] = (-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806)
ERFC += (0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277)


def erf(x: Array) -> Array:
    z = np.abs(x)
    t = 1 / (1 + 0.5 * z)
    series = np.zeros_like(t)
    for term in reversed(ERFC):
        series = series * t + np.float32(term)
    result: Array = np.copysign(1 - t * np.exp(series - z * z), x)
    return result


def sigmoid(x: Array) -> Array:
    result: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return result


def clip(x: Array, alpha: Array, beta: Array) -> Array:
    return np.minimum(np.maximum(x, alpha), beta)


def cast(x: Array, dtype: str) -> Array:
    return x.astype(DTYPES[dtype])


# Shapes.


def reshape(x: Array, shape: Array) -> Array:
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(integers(shape))])


def slice_by_index(
    x: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    index: list[slice | int] = []
    no = (0,) * x.ndim
    steps = integers(stride) or (1,) * x.ndim
    masks = (integers(mask) or no for mask in (begin_mask, end_mask, squeeze_mask))
    for start, stop, step, free_start, free_stop, single in zip(
        integers(begin), integers(end), steps, *masks, strict=True
    ):
        if single:
            index.append(start)
        else:
            index.append(slice(None if free_start else start, None if free_stop else stop, step))
    result: Array = x[tuple(index)]
    return result


def gather(x: Array, indices: Array, axis: Any = 0, batch_dims: Any = 0, validate_indices: Any = False) -> Array:
    only(int(batch_dims), 0, "batch_dims")
    return np.take(x, indices, axis=int(axis))


def concat(values: Sequence[Array], axis: Array, interleave: Any = False) -> Array:
    only(bool(interleave), False, "interleave")
    return np.concatenate([np.atleast_1d(value) for value in values], axis=int(axis))  # numbers make a list


def split(
    x: Array, axis: Array, num_splits: Array | None = None, split_sizes: Array | None = None
) -> tuple[Array, ...]:
    if split_sizes is not None:
        return tuple(np.split(x, np.cumsum(integers(split_sizes))[:-1], axis=int(axis)))
    assert num_splits is not None  # the operator needs one of both
    return tuple(np.split(x, int(num_splits), axis=int(axis)))


def pad(x: Array, pad: Array, mode: str = "constant", constant_val: Any = 0.0) -> Array:
    """`pad`: before and after for each of the last axes."""
    widths = np.reshape(integers(pad), (-1, 2))
    widths = np.concatenate([np.zeros((x.ndim - len(widths), 2), int), widths])
    if mode == "constant":
        return np.pad(x, widths, constant_values=constant_val)
    return np.pad(x, widths, mode={"reflect": "reflect", "replicate": "edge"}[mode])  # type: ignore[call-overload, no-any-return]


def _reduce(function: Callable[..., Array]) -> Callable[..., Array]:
    def reduced(x: Array, axes: Array | None = None, keep_dims: Any = False) -> Array:
        return function(x, axis=integers(axes) or None, keepdims=bool(keep_dims))

    return reduced


OPS: dict[str, Callable[..., Any]] = {
    "constexpr_affine_dequantize": constexpr_affine_dequantize,
    "constexpr_cast": lambda source_val, output_dtype: source_val.astype(DTYPES[output_dtype]),
    "constexpr_lut_to_dense": constexpr_lut_to_dense,
    "quantize": quantize,
    "dequantize": dequantize,
    "cast": cast,
    "abs": lambda x: np.abs(x),
    "clip": clip,
    "cos": lambda x: np.cos(x),
    "exp": lambda x: np.exp(x),
    "gelu": gelu,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "rsqrt": lambda x, epsilon=1e-12: 1 / np.sqrt(x + epsilon),
    "sigmoid": sigmoid,
    "sin": lambda x: np.sin(x),
    "sqrt": lambda x: np.sqrt(x),
    "square": lambda x: np.square(x),
    "tanh": lambda x: np.tanh(x),
    "softmax": softmax,
    "add": lambda x, y: x + y,
    "equal": lambda x, y: x == y,
    "floor_div": lambda x, y: x // y,
    "greater": lambda x, y: x > y,
    "less": lambda x, y: x < y,
    "logical_and": lambda x, y: x & y,
    "logical_not": lambda x: ~x,
    "logical_or": lambda x, y: x | y,
    "maximum": lambda x, y: np.maximum(x, y),
    "minimum": lambda x, y: np.minimum(x, y),
    "mul": lambda x, y: x * y,
    "not_equal": lambda x, y: x != y,
    "pow": lambda x, y: np.square(x) if y.size == 1 and y == 2 else np.power(x, y),
    "real_div": lambda x, y: x // y if x.dtype.kind == "i" else x / y,
    "sub": lambda x, y: x - y,
    "select": lambda cond, a, b: np.where(cond, a, b),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "linear": linear,
    "matmul": matmul,
    "avg_pool": avg_pool,
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "reduce_max": _reduce(np.max),
    "reduce_mean": _reduce(np.mean),
    "reduce_min": _reduce(np.min),
    "reduce_sum": _reduce(np.sum),
    "upsample_bilinear": upsample_bilinear,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
    "concat": concat,
    "expand_dims": lambda x, axes: np.expand_dims(x, integers(axes)),
    "gather": gather,
    "pad": pad,
    "reshape": reshape,
    "shape": lambda x: np.array(x.shape, np.int32),
    "slice_by_index": slice_by_index,
    "split": split,
    "squeeze": lambda x, axes=None: np.squeeze(x, integers(axes) or None),
    "stack": lambda values, axis: np.stack(list(values), axis=int(axis)),
    "tile": lambda x, reps: np.tile(x, integers(reps)),
    "transpose": lambda x, perm: np.transpose(x, integers(perm)),
}
