"""The layers among Core ML's operators in NumPy: products with weights, pooling, norms and upsampling.

The rest is in mil_ops.py, which also says what all have in common.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sam_edge.errors import ArtifactError

__all__ = [
    "Array",
    "avg_pool",
    "batch_norm",
    "conv",
    "conv_transpose",
    "integers",
    "layer_norm",
    "linear",
    "matmul",
    "only",
    "softmax",
    "upsample_bilinear",
    "upsample_nearest_neighbor",
]

Array: TypeAlias = NDArray[Any]


def integers(values: Array | None) -> tuple[int, ...]:
    """A parameter that lists sizes or axes."""
    return () if values is None else tuple(int(x) for x in np.atleast_1d(values))


def only(got: Any, known: Any, what: str) -> None:
    """Raises ArtifactError for a form of an operator that no export of this package has."""
    if got != known:
        raise ArtifactError(
            f"{what} is {got!r:.40}, expected {known!r}. Check the file on macOS, or export the model again."
        )


# Products.


def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    dilations: Array | None = None,
    groups: Array | None = None,
) -> Array:
    """x (n, C, h, w), weight (O, C / groups, kh, kw) -> (n, O, h', w')."""
    step = integers(strides) or (1, 1)
    only(integers(dilations) or (1, 1), (1, 1), "dilations")
    x = _padded(x, pad_type, pad)
    count, kernel = int(groups) if groups is not None else 1, weight.shape[2:]
    if kernel == (1, 1) and count == 1:
        x = x[:, :, :: step[0], :: step[1]]
        out = weight[:, :, 0, 0] @ x.reshape(*x.shape[:2], -1)
        out = out.reshape(len(x), -1, *x.shape[2:])
    elif count == x.shape[1] == len(weight):
        out = _depthwise(x, weight[:, 0], step)
    else:
        parts = zip(np.split(x, count, axis=1), np.split(weight, count), strict=True)
        out = np.concatenate([_dense(part, filters, step) for part, filters in parts], axis=1)
    return out if bias is None else out + bias[:, None, None]


def _dense(x: Array, weight: Array, step: tuple[int, ...]) -> Array:
    """Windows as columns, then one product."""
    windows = sliding_window_view(x, weight.shape[2:], axis=(2, 3))[
        :, :, :: step[0], :: step[1]
    ]  # (n, C, h', w', kh, kw)
    n, _, height, width = windows.shape[:4]
    columns = windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, -1, height * width)
    result: Array = (weight.reshape(len(weight), -1) @ columns).reshape(n, -1, height, width)
    return result


def _depthwise(x: Array, weight: Array, step: tuple[int, ...]) -> Array:
    """weight (C, kh, kw): a sum over the filter's places."""
    height, width = ((size - k) // s + 1 for size, k, s in zip(x.shape[2:], weight.shape[1:], step, strict=True))
    out = np.zeros((*x.shape[:2], height, width), np.float32)
    for i, j in np.ndindex(*weight.shape[1:]):
        rows = slice(i, i + (height - 1) * step[0] + 1, step[0])
        columns = slice(j, j + (width - 1) * step[1] + 1, step[1])
        out += x[:, :, rows, columns] * weight[:, i, j, None, None]
    return out


def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    dilations: Array | None = None,
    groups: Array | None = None,
    output_shape: Array | None = None,
) -> Array:
    """x (n, C, h, w), weight (C, O, kh, kw) -> (n, O, (h - 1) * stride + kh, ...), less the padding."""
    only(integers(dilations) or (1, 1), (1, 1), "dilations")
    only(integers(groups) or (1,), (1,), "groups")
    step, (n, channels, height, width) = integers(strides) or (1, 1), x.shape
    kernel = weight.shape[2:]
    out = np.zeros(
        (n, weight.shape[1], (height - 1) * step[0] + kernel[0], (width - 1) * step[1] + kernel[1]), np.float32
    )
    flat = x.reshape(n, channels, -1)
    for i, j in np.ndindex(*kernel):
        part = (weight[:, :, i, j].T @ flat).reshape(n, -1, height, width)
        out[:, :, i : i + (height - 1) * step[0] + 1 : step[0], j : j + (width - 1) * step[1] + 1 : step[1]] += part
    top, bottom, left, right = _sides(pad_type, pad)
    out = out[:, :, top : out.shape[2] - bottom, left : out.shape[3] - right]
    return out if bias is None else out + bias[:, None, None]


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x (..., in), weight (out, in) -> (..., out)."""
    out: Array = x @ weight.T
    return out if bias is None else out + bias


def matmul(x: Array, y: Array, transpose_x: Array | None = None, transpose_y: Array | None = None) -> Array:
    x = np.swapaxes(x, -1, -2) if transpose_x is not None and transpose_x else x
    y = np.swapaxes(y, -1, -2) if transpose_y is not None and transpose_y else y
    result: Array = x @ y
    return result


# Neighbourhoods and norms.


def avg_pool(
    x: Array,
    kernel_sizes: Array,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    exclude_padding_from_average: Array | None = None,
    ceil_mode: Array | None = None,
) -> Array:
    step = integers(strides) or integers(kernel_sizes)
    if ceil_mode is not None and ceil_mode:
        rests = [(size - k) % s for size, k, s in zip(x.shape[2:], integers(kernel_sizes), step, strict=True)]
        only(rests, [0, 0], "a pooling's rest with ceil_mode")
    x = _padded(x, pad_type, pad)
    if any(_sides(pad_type, pad)):
        only(bool(exclude_padding_from_average), False, "exclude_padding_from_average")
    windows = sliding_window_view(x, integers(kernel_sizes), axis=(2, 3))
    result: Array = windows[:, :, :: step[0], :: step[1]].mean((4, 5))
    return result


def batch_norm(
    x: Array, mean: Array, variance: Array, gamma: Array | None = None, beta: Array | None = None, epsilon: Any = 1e-5
) -> Array:
    scale = (1 if gamma is None else gamma) / np.sqrt(variance + epsilon)
    shift = (0 if beta is None else beta) - mean * scale
    shape = [-1] + [1] * (x.ndim - 2)
    result: Array = x * scale.reshape(shape) + shift.reshape(shape)
    return result


def layer_norm(
    x: Array, axes: Array | None = None, gamma: Array | None = None, beta: Array | None = None, epsilon: Any = 1e-5
) -> Array:
    over = integers(axes) or tuple(range(x.ndim))
    centred = x - x.mean(over, keepdims=True)
    out: Array = centred / np.sqrt(np.square(centred).mean(over, keepdims=True) + epsilon)
    return (out if gamma is None else out * gamma) + (0 if beta is None else beta)


def softmax(x: Array, axis: Array | int = -1) -> Array:
    out = np.exp(x - x.max(int(axis), keepdims=True))
    return np.asarray(out / out.sum(int(axis), keepdims=True))


def upsample_bilinear(
    x: Array,
    scale_factor_height: Any = 1,
    scale_factor_width: Any = 1,
    align_corners: Any = True,
    half_pixel_centers: Any = None,
) -> Array:
    """Both axes are linear maps: rows @ x @ columns."""
    centred = not align_corners if half_pixel_centers is None else bool(half_pixel_centers)
    rows = _interpolation(x.shape[2], float(scale_factor_height), bool(align_corners), centred)
    columns = _interpolation(x.shape[3], float(scale_factor_width), bool(align_corners), centred)
    result: Array = rows @ x @ columns.T
    return result


def _interpolation(size: int, factor: float, align_corners: bool, centred: bool) -> Array:
    """(larger, size): each row holds the one or two weights of an output place."""
    larger = int(size * factor)
    at = np.arange(larger) * ((size - 1) / max(larger - 1, 1)) if align_corners else np.arange(larger) / factor
    if centred:
        at = (np.arange(larger) + 0.5) / factor - 0.5
    at = np.clip(at, 0, size - 1)
    low = np.minimum(at.astype(int), max(size - 2, 0))
    weights = np.zeros((larger, size), np.float32)
    np.add.at(weights, (np.arange(larger), low), 1 - (at - low))
    np.add.at(weights, (np.arange(larger), np.minimum(low + 1, size - 1)), at - low)
    return weights


def upsample_nearest_neighbor(x: Array, scale_factor_height: Any = 1, scale_factor_width: Any = 1) -> Array:
    factors = float(scale_factor_height), float(scale_factor_width)
    rows, columns = (np.arange(int(size * f)) // f for size, f in zip(x.shape[2:], factors, strict=True))
    result: Array = x[:, :, rows.astype(int)][:, :, :, columns.astype(int)]
    return result


def _padded(x: Array, pad_type: str, pad: Array | None) -> Array:
    top, bottom, left, right = _sides(pad_type, pad)
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right))) if top + bottom + left + right else x


def _sides(pad_type: str, pad: Array | None) -> tuple[int, ...]:
    """Top, bottom, left, right. The padding of type "custom" counts, that of "valid" does not."""
    if pad_type != "valid":
        only(pad_type, "custom", "pad_type")
    return integers(pad) if pad_type == "custom" and pad is not None else (0, 0, 0, 0)
