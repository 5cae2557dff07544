"""The NumPy operators of Core ML programs against torch, at odd sizes and with every parameter these models use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_edge.errors import ArtifactError
from sam_edge.mil_program import OPERATORS
from sam_edge.runtimes.mil_ops import OPS, Array

TOLERANCE = 2e-5  # of the largest value: float32 both ways, only the order of sums differs


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed + len(shape)).standard_normal(shape).astype(np.float32)


def numbers(*values: int) -> Array:
    return np.array(values, np.int32)


def assert_close(got: Any, expected: torch.Tensor) -> None:
    wanted = expected.numpy()
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


def test_every_operator_that_a_file_may_have_can_be_computed() -> None:
    assert OPS.keys() | {"const"} == OPERATORS


@pytest.mark.parametrize(
    ("groups", "channels", "out", "kernel", "stride", "padding"),
    [
        (1, 5, 7, 1, 1, 0),
        (1, 5, 7, 1, 2, 0),
        (1, 3, 4, 3, 2, 1),
        (6, 6, 6, 5, 2, 2),
        (2, 6, 4, 3, 1, 1),
        (1, 3, 8, 4, 4, 0),
    ],
)
def test_convolutions(groups: int, channels: int, out: int, kernel: int, stride: int, padding: int) -> None:
    x, weight, bias = normal(2, channels, 13, 9), normal(out, channels // groups, kernel, kernel, seed=1), normal(out)
    got = OPS["conv"](
        x, weight, bias, numbers(stride, stride), "custom", numbers(*[padding] * 4), numbers(1, 1), np.int32(groups)
    )
    arguments = (torch.from_numpy(a) for a in (x, weight, bias))
    assert_close(got, F.conv2d(*arguments, stride=stride, padding=padding, groups=groups))


def test_padding_counts_only_where_its_type_says_so() -> None:
    x, weight = normal(1, 2, 7, 7), normal(3, 2, 3, 3)
    got = OPS["conv"](x, weight, pad_type="valid", pad=numbers(1, 1, 1, 1))
    assert_close(got, F.conv2d(torch.from_numpy(x), torch.from_numpy(weight)))
    uneven = OPS["conv"](x, weight, pad_type="custom", pad=numbers(0, 1, 2, 0))
    assert_close(uneven, F.conv2d(F.pad(torch.from_numpy(x), (2, 0, 0, 1)), torch.from_numpy(weight)))
    with pytest.raises(ArtifactError, match=r"pad_type is 'same', expected 'custom'\. Check the file on macOS"):
        OPS["conv"](x, weight, pad_type="same")


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (4, 1, 0)])
def test_transposed_convolutions(kernel: int, stride: int, padding: int) -> None:
    x, weight, bias = normal(2, 5, 6, 4), normal(5, 3, kernel, kernel), normal(3)
    got = OPS["conv_transpose"](x, weight, bias, numbers(stride, stride), "custom", numbers(*[padding] * 4))
    arguments = (torch.from_numpy(a) for a in (x, weight, bias))
    assert_close(got, F.conv_transpose2d(*arguments, stride=stride, padding=padding))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bilinear_upsampling(align_corners: bool, factor: int) -> None:
    x = normal(1, 3, 5, 7)
    got = OPS["upsample_bilinear"](x, np.float32(factor), np.float32(factor), np.bool_(align_corners))
    expected = F.interpolate(torch.from_numpy(x), scale_factor=factor, mode="bilinear", align_corners=align_corners)
    assert_close(got, expected)


def test_nearest_upsampling_pooling_and_norms() -> None:
    x = normal(2, 4, 6, 10)
    t = torch.from_numpy(x)
    assert_close(
        OPS["upsample_nearest_neighbor"](x, np.float32(2), np.float32(3)), F.interpolate(t, scale_factor=(2, 3))
    )
    assert_close(OPS["avg_pool"](x, numbers(2, 5), numbers(2, 5), "valid"), F.avg_pool2d(t, (2, 5)))
    gamma, beta = normal(10), normal(10, seed=3)
    got = OPS["layer_norm"](x, numbers(-1), gamma, beta, np.float32(1e-6))
    assert_close(got, F.layer_norm(t, (10,), torch.from_numpy(gamma), torch.from_numpy(beta), 1e-6))
    mean, variance = normal(4), np.abs(normal(4, seed=5))
    scale, shift = normal(4, seed=6), normal(4, seed=7)
    got = OPS["batch_norm"](x, mean, variance, scale, shift, np.float32(1e-5))
    assert_close(got, F.batch_norm(t, *(torch.from_numpy(a) for a in (mean, variance, scale, shift))))
    assert_close(OPS["softmax"](x, numbers(1)[0]), torch.softmax(t, 1))


@pytest.mark.parametrize(("mode", "approximate"), [("EXACT", "none"), ("TANH_APPROXIMATION", "tanh")])
def test_gelu_and_sigmoid_over_their_whole_range(mode: str, approximate: str) -> None:
    x = np.linspace(-30, 30, 10_001).astype(np.float32)
    assert_close(OPS["gelu"](x, mode), F.gelu(torch.from_numpy(x), approximate=approximate))
    near = np.linspace(-1e-3, 1e-3, 101).astype(np.float32)
    np.testing.assert_allclose(OPS["gelu"](near, mode), F.gelu(torch.from_numpy(near)).numpy(), rtol=0, atol=1e-9)
    assert_close(OPS["sigmoid"](x), torch.sigmoid(torch.from_numpy(x)))


def test_products_slices_and_splits() -> None:
    x, y = normal(2, 3, 5, 4), normal(2, 1, 5, 6, seed=1)
    assert_close(OPS["matmul"](x, y, np.True_, np.False_), torch.from_numpy(x).transpose(2, 3) @ torch.from_numpy(y))
    assert_close(OPS["linear"](x, y[0, 0, :, :4]), F.linear(torch.from_numpy(x), torch.from_numpy(y[0, 0, :, :4])))
    got = OPS["slice_by_index"](
        x, numbers(0, 1, 0, -3), numbers(0, 2, 4, 0), numbers(1, 1, 2, 1), numbers(1, 0, 0, 0), numbers(1, 0, 0, 1),
        numbers(0, 1, 0, 0),
    )  # fmt: skip
    np.testing.assert_array_equal(got, x[:, 1, 0:4:2, -3:])
    parts = OPS["split"](x, numbers(3)[0], split_sizes=numbers(1, 3))
    np.testing.assert_array_equal(parts[1], x[..., 1:])
    np.testing.assert_array_equal(OPS["reshape"](x, numbers(0, -1, 4)), x.reshape(2, 15, 4))
    np.testing.assert_array_equal(OPS["concat"]([np.int32(2), np.int32(3)], numbers(0)[0]), [2, 3])
    np.testing.assert_array_equal(OPS["reduce_min"](x, numbers(1), np.True_), x.min(1, keepdims=True))
    np.testing.assert_array_equal(OPS["pad"](x, numbers(0, 1, 2, 0)), np.pad(x, [(0, 0), (0, 0), (0, 1), (2, 0)]))


def test_weights_in_few_bits() -> None:
    quantized = np.array([[-128, 0], [127, 5]], np.int8)
    got = OPS["constexpr_affine_dequantize"](
        quantized, np.array([0, 5], np.int8), np.array([0.5, 2], np.float32), numbers(0)[0]
    )
    np.testing.assert_array_equal(got, [[-64, 0], [244, 0]])
    lut = np.arange(8, dtype=np.float32) * 10  # 3 bits a weight, the lowest first
    bits = [[1, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]]
    packed = np.packbits(np.ravel(bits), bitorder="little")
    np.testing.assert_array_equal(OPS["constexpr_lut_to_dense"](packed, lut, numbers(2, 2)), [[10, 20], [70, 40]])


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-3, 10), st.integers(-128, 127), st.integers(0, 1000))
def test_quantizing_loses_at_most_half_a_step_inside_the_range(scale: float, zero: int, seed: int) -> None:
    steps = np.random.default_rng(seed).uniform(-128 - zero, 127 - zero, 100)
    x, step, zero_point = (steps * scale).astype(np.float32), np.float32(scale), np.int8(zero)
    quantized = OPS["quantize"](x, step, "int8", zero_point)
    assert quantized.dtype == np.int8
    assert np.abs(OPS["dequantize"](quantized, step, zero_point) - x).max() <= 0.501 * scale
    assert OPS["quantize"](np.float32([1e9, -1e9]), step, "uint8", np.uint8(3)).tolist() == [255, 0]
