"""The kernel of SAM's windowed blocks and TinyViT's against its reference."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sam_edge.errors import RuntimeUnavailable
from sam_edge.kernels.launch import CANDIDATES, LAUNCHES, Launch
from sam_edge.kernels.window_attention import reference, supports, window_attention
from sam_edge.model import tinyvit, vit
from tests.kernels.compare import DEVICE, assert_near, inside_nan

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FORWARD = 4  # roundings of the largest value: see test_rel_pos_attention.py
BACKWARD = 8


class Inputs(NamedTuple):
    qkv: Tensor
    padding: Tensor
    bias: tuple[Tensor, ...]
    window: int
    num_heads: int
    heads_first: bool

    def map(self, change: object) -> Inputs:
        return self._replace(
            qkv=change(self.qkv), padding=change(self.padding), bias=tuple(map(change, self.bias))  # type: ignore
        )  # fmt: skip

    @property
    def tensors(self) -> list[Tensor]:
        return [self.qkv, self.padding, *self.bias]


def make_inputs(
    grid: tuple[int, int], window: int, dim: int, dtype: torch.dtype = torch.float32, n: int = 1, heads: int = 1,
    learned: bool = False, seed: int = 0,
) -> Inputs:  # fmt: skip
    """`learned`: TinyViT's bias and order of channels; otherwise SAM's."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(DEVICE, dtype)

    channels = 3 * heads * dim
    bias = (random(heads, window**2),) if learned else tuple(random(2 * window - 1, dim, scale=0.4) for _ in range(2))
    return Inputs(random(n, *grid, channels), random(channels), bias, window, heads, learned)


def exact(inputs: Inputs) -> Tensor:
    return reference.window_attention(*inputs.map(lambda x: x.detach().double()))


def assert_right(got: Tensor, inputs: Inputs) -> None:
    assert got.dtype == inputs.qkv.dtype
    assert_near(got, exact(inputs), FORWARD, got.dtype, scale=inputs.qkv)


@pytest.mark.parametrize("grid", [(5, 7), (6, 6), (2, 3)])
def test_reference_is_sams_windowed_attention(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    attention = vit.Attention(32, 2, 3, windowed=True).to(DEVICE)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, *grid, 32, device=DEVICE)
    with torch.no_grad():
        bias = attention.rel_pos_h, attention.rel_pos_w
        got = attention.proj(reference.window_attention(attention.qkv(x), attention.qkv.bias, bias, 3, 2))
        assert_near(got, attention(x), 1, torch.float32)


@pytest.mark.parametrize("grid", [(5, 7), (6, 6), (2, 3)])
def test_reference_is_tinyvits_windowed_attention(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    attention = tinyvit.Attention(32, 2, 3).to(DEVICE)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, *grid, 32, device=DEVICE)
    with torch.no_grad():
        windows = attention(vit.window_partition(x, 3).flatten(1, 2))
        want = vit.window_unpartition(windows.reshape(-1, 3, 3, 32), grid)
        qkv, padding = attention.qkv(attention.norm(x)), attention.qkv(attention.norm.bias)
        out = reference.window_attention(qkv, padding, (attention.attention_biases,), 3, 2, heads_first=True)
        assert_near(attention.proj(out), want, 1, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("dim", "learned"), [(32, False), (64, False), (80, False), (32, True), (16, True)])
def test_every_head_width_dtype_and_bias_is_near_the_reference(dim: int, learned: bool, dtype: torch.dtype) -> None:
    inputs = make_inputs((5, 4), 4, dim, dtype, heads=2, learned=learned)
    assert_right(window_attention(*inputs), inputs)


@pytest.mark.parametrize(("window", "learned"), [(14, False), (14, True), (7, True)])
def test_the_windows_of_sam_and_tinyvit_are_near_the_reference(window: int, learned: bool) -> None:
    """Two windows across, of which the second is mostly filled up, as at the end of 64 tokens in windows of 14."""
    inputs = make_inputs((window - 1, window + 2), window, 16, learned=learned)
    assert_right(window_attention(*inputs), inputs)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    window=st.integers(2, 8),
    n=st.integers(1, 2),
    dim=st.sampled_from((16, 32, 64, 80)),
    learned=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_any_grid_window_and_batch_is_near_the_reference(
    grid: tuple[int, int], window: int, n: int, dim: int, learned: bool, dtype: torch.dtype, seed: int
) -> None:
    inputs = make_inputs(grid, window, dim, dtype, n, 1, learned, seed)
    assert_right(window_attention(*inputs), inputs)


def tiles() -> list[tuple[torch.dtype, Launch]]:
    """Every tile the tuner may choose and every row of the table, once: warps and stages do not change a result."""
    seen: dict[tuple[torch.dtype, int, int], Launch] = {}
    for bits, dtype in ((16, torch.float16), (32, torch.float32)):
        rows = [launch for (op, _, size), row in LAUNCHES.items() if (op, size) == ("window_attention", bits)
                for launch in row.values()]  # fmt: skip
        for launch in (*CANDIDATES["window_attention", bits], *rows):
            seen.setdefault((dtype, launch.block_m, launch.block_n), launch)
    return [(key[0], launch) for key, launch in seen.items()]


@pytest.mark.usefixtures("_empty_is_nan")
@pytest.mark.parametrize("learned", [False, True], ids=["rel_pos", "learned"])
@pytest.mark.parametrize(("dtype", "launch"), tiles(), ids=str)
def test_every_tile_is_right_among_nans(dtype: torch.dtype, launch: Launch, learned: bool) -> None:
    """Windows that end on the map and beyond it; qkv inside NaN, the output NaN before."""
    from sam_edge.kernels.window_attention import triton_kernel

    inputs = make_inputs((7, 5), 6, 16, dtype, learned=learned)
    got = triton_kernel.forward(inside_nan(inputs.qkv), *inputs[1:], launch)
    assert_right(got, inputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("learned", [False, True], ids=["rel_pos", "learned"])
@pytest.mark.parametrize("grid", [(5, 4), (3, 3)], ids=["padded", "whole"])
def test_gradients_are_near_the_reference(grid: tuple[int, int], learned: bool, dtype: torch.dtype) -> None:
    inputs = make_inputs(grid, 3, 16, dtype, n=2, heads=2, learned=learned)
    got = inputs.map(lambda x: x.detach().requires_grad_())
    want = inputs.map(lambda x: x.detach().double().requires_grad_())
    out = window_attention(*got)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    out.backward(grad)
    reference.window_attention(*want).backward(grad.double())
    for ours, theirs in zip(got.tensors, want.tensors, strict=True):
        assert ours.grad is not None and theirs.grad is not None and ours.grad.dtype == dtype
        if theirs.grad.any():
            assert_near(ours.grad, theirs.grad, BACKWARD, dtype)
        else:  # of the padding, where there is none
            assert not ours.grad.any()


def test_padding_takes_part_as_a_key() -> None:
    inputs = make_inputs((4, 4), 3, 16)
    other = inputs._replace(padding=inputs.padding + 1)
    changed = (window_attention(*inputs) != window_attention(*other)).any(dim=3)[0]
    assert not changed[:3, :3].any(), "a window inside the map has no padding"
    assert changed[3].all() and changed[:, 3].all()


def test_any_strides_give_the_same() -> None:
    inputs = make_inputs((4, 5), 3, 16, n=2)
    want = window_attention(*inputs)
    for axes in ((1, 2), (1, 3), (0, 3)):
        qkv = inputs.qkv.transpose(*axes).contiguous().transpose(*axes)
        assert torch.equal(window_attention(qkv, *inputs[1:]), want)


def test_torch_compile_and_export_pass_through() -> None:
    inputs = make_inputs((4, 5), 3, 16)
    want = window_attention(*inputs)
    assert torch.equal(torch.compile(window_attention, backend="aot_eager", fullgraph=True)(*inputs), want)

    class Module(torch.nn.Module):
        def forward(self, qkv: Tensor) -> Tensor:
            return window_attention(qkv, *inputs[1:])

    program = torch.export.export(Module(), (inputs.qkv,))
    assert "sam_edge.window_attention" in str(program.graph)
    assert torch.equal(program.module()(inputs.qkv), want)


def test_the_op_is_registered_as_torch_wants_it() -> None:
    inputs = make_inputs((4, 3), 3, 16).map(lambda x: x.requires_grad_())
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")  # compiling has its own test
    arguments = (inputs.qkv, inputs.padding, list(inputs.bias), *inputs[3:])
    torch.library.opcheck(torch.ops.sam_edge.window_attention.default, arguments, test_utils=checks)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x._replace(window=1), "windows are 1 x 1, expected 2 to 32"),
        (lambda x: x._replace(padding=x.padding[:-1]), "qkv and padding have shapes"),
        (lambda x: x._replace(num_heads=3), "qkv and padding have shapes"),
        (lambda x: x._replace(bias=(x.bias[0],)), "expected (5, 16) twice or (2, 9) once"),
        (lambda x: x.map(lambda y: y.double()), "qkv is torch.float64"),
        (lambda x: x._replace(padding=x.padding.half()), "padding is torch.float16 on"),
        (lambda x: x.map(lambda y: y.to("meta")), "qkv is on meta, expected an NVIDIA GPU"),
    ],
)
def test_what_is_not_supported_says_why(change: object, reason: str) -> None:
    inputs = make_inputs((4, 5), 3, 16, heads=2)
    assert supports(*inputs[:5])
    support = supports(*change(inputs)[:5])  # type: ignore[operator]
    assert not support and reason in support.reason


def test_on_the_cpu_without_the_interpreter_the_reference_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    inputs = make_inputs((4, 5), 3, 16).map(lambda x: x.cpu())
    assert torch.equal(window_attention(*inputs), reference.window_attention(*inputs))
    with pytest.raises(RuntimeUnavailable, match="expected a GPU that supports"):
        torch.ops.sam_edge.window_attention(inputs.qkv, inputs.padding, list(inputs.bias), *inputs[3:])
