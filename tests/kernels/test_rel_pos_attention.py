"""The kernel of SAM's global blocks against its reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sam_edge.errors import RuntimeUnavailable
from sam_edge.kernels.launch import CANDIDATES, HEAD_SPLITS, LAUNCHES, Launch, tile_shape
from sam_edge.kernels.rel_pos_attention import reference, rel_pos_attention, supports
from sam_edge.kernels.rel_pos_attention.baselines import BASELINES
from sam_edge.model.vit import relative_position_attention, relative_positions
from tests.kernels.compare import DEVICE, assert_near, inside_nan, relative_error

HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, *HALF)
# Against the exact result of the same rounded inputs: the weights are rounded once before they meet the values, and so
# is the result, both by at most one rounding of the largest value. The interpreter's bfloat16 truncates: two each.
FORWARD = 4
# The gradients of weights and logits are rounded, then summed over tokens, then rounded again.
BACKWARD = 8


def make_inputs(
    grid: tuple[int, int], dim: int, dtype: torch.dtype = torch.float32, n: int = 1, heads: int = 1, seed: int = 0
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    height, width = grid
    shapes = [(n, heads, height * width, dim)] * 3 + [(2 * height - 1, dim), (2 * width - 1, dim)]
    scales = (1.0, 1.0, 1.0, 0.4, 0.4)  # the bias is of the size of the products of queries and keys
    return [
        (torch.randn(shape, generator=generator) * scale).to(DEVICE, dtype)
        for shape, scale in zip(shapes, scales, strict=True)
    ]


def exact(tensors: list[Tensor]) -> Tensor:
    return reference.rel_pos_attention(*(x.detach().double() for x in tensors))


def run(tensors: list[Tensor], launch: Launch) -> Tensor:
    from sam_edge.kernels.rel_pos_attention import triton_kernel

    return triton_kernel.forward(*tensors, launch)[0].transpose(1, 2)


def test_reference_is_the_models_attention() -> None:
    query, key, value, table_h, table_w = make_inputs((5, 7), 16, n=2, heads=3)
    rel_h, rel_w = relative_positions(5, 5, table_h), relative_positions(7, 7, table_w)
    got = reference.rel_pos_attention(query, key, value, table_h, table_w)
    assert_near(got, relative_position_attention(query, key, value, rel_h, rel_w), 1, torch.float32)


@pytest.mark.parametrize("baseline", sorted(BASELINES))
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_baselines_compute_the_same(baseline: str) -> None:
    tensors = make_inputs((6, 5), 16, n=2, heads=2)
    assert_near(BASELINES[baseline](*tensors), exact(tensors), 1, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", sorted(HEAD_SPLITS))
def test_every_head_width_and_dtype_is_near_the_reference(dim: int, dtype: torch.dtype) -> None:
    tensors = make_inputs((5, 7), dim, dtype)
    got = rel_pos_attention(*tensors)
    assert got.dtype == dtype
    assert_near(got, exact(tensors), FORWARD, dtype, scale=tensors[2])


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_is_no_worse_than_sdpa_with_bias(dtype: torch.dtype) -> None:
    tensors = make_inputs((8, 8), 32, dtype)
    tensors[3:] = [8 * table for table in tensors[3:]]  # a large bias, which half precision holds badly
    want = exact(tensors)
    sdpa = relative_error(BASELINES["sdpa with bias"](*tensors), want)
    assert relative_error(rel_pos_attention(*tensors), want) <= sdpa


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    n=st.integers(1, 2),
    heads=st.integers(1, 2),
    dim=st.sampled_from(sorted(HEAD_SPLITS)),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_any_grid_and_batch_is_near_the_reference(
    grid: tuple[int, int], n: int, heads: int, dim: int, dtype: torch.dtype, seed: int
) -> None:
    tensors = make_inputs(grid, dim, dtype, n, heads, seed)
    assert_near(rel_pos_attention(*tensors), exact(tensors), FORWARD, dtype, scale=tensors[2])


@pytest.mark.parametrize("n", range(1, 9))
def test_images_of_a_batch_do_not_touch_each_other(n: int) -> None:
    tensors = make_inputs((3, 4), 16, n=n)
    together = rel_pos_attention(*tensors)
    last = [x[n - 1 :] if x.dim() == 4 else x for x in tensors]
    assert torch.equal(together[n - 1 :], rel_pos_attention(*last))


def tiles(op: str) -> list[tuple[torch.dtype, Launch]]:
    """Every tile the tuner may choose and every row of the table, once: warps and stages do not change a result."""
    seen: dict[tuple[torch.dtype, int, int], Launch] = {}
    for bits, dtype in ((16, torch.float16), (32, torch.float32)):
        rows = [launch for (name, _, size), row in LAUNCHES.items() if (name, size) == (op, bits)
                for launch in row.values()]  # fmt: skip
        for launch in (*CANDIDATES[op, bits], *rows):
            seen.setdefault((dtype, launch.block_m, launch.block_n), launch)
    return [(key[0], launch) for key, launch in seen.items()]


@pytest.mark.usefixtures("_empty_is_nan")
@pytest.mark.parametrize(("dtype", "launch"), tiles("rel_pos_attention"), ids=str)
def test_every_tile_is_right_among_nans(dtype: torch.dtype, launch: Launch) -> None:
    """One tile across and several, ragged on both axes; inputs inside NaN, outputs NaN before."""
    tensors = make_inputs((4, 17), 16, dtype)
    got = run([*map(inside_nan, tensors[:3]), *tensors[3:]], launch)
    assert_near(got, exact(tensors), FORWARD, dtype, scale=tensors[2])


@pytest.mark.usefixtures("_empty_is_nan")
@pytest.mark.parametrize(("dtype", "launch"), tiles("rel_pos_attention_backward"), ids=str)
def test_gradients_of_every_tile_are_right_among_nans(
    dtype: torch.dtype, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = dict.fromkeys((16, 80), launch)
    monkeypatch.setitem(LAUNCHES, ("rel_pos_attention_backward", "hopper", 8 * dtype.itemsize), row)
    tensors = make_inputs((4, 17), 16, dtype)
    check_gradients([*map(inside_nan, tensors[:3]), *tensors[3:]], dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_are_near_the_reference(dtype: torch.dtype) -> None:
    check_gradients(make_inputs((3, 4), 80, dtype, n=2, heads=2), dtype)


def check_gradients(tensors: list[Tensor], dtype: torch.dtype) -> None:
    got = [x.detach().requires_grad_() for x in tensors]
    want = [x.detach().double().requires_grad_() for x in tensors]
    grad = torch.randn(got[0].shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    rel_pos_attention(*got).backward(grad)
    reference.rel_pos_attention(*want).backward(grad.double())
    for ours, theirs in zip(got, want, strict=True):
        assert ours.grad is not None and theirs.grad is not None and ours.grad.dtype == dtype
        assert_near(ours.grad, theirs.grad, BACKWARD, dtype)


def test_the_references_own_gradients_are_those_of_its_values() -> None:
    tensors = [x.double().requires_grad_() for x in make_inputs((2, 2), 2)]
    assert torch.autograd.gradcheck(reference.rel_pos_attention, tensors)


def test_any_strides_give_the_same() -> None:
    """As the model has it, heads between tokens and width; and with the last axis not contiguous."""
    tensors = make_inputs((4, 4), 32, heads=2)
    want = rel_pos_attention(*tensors)
    between = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors[:3]]
    assert torch.equal(rel_pos_attention(*between, *tensors[3:]), want)
    across = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in tensors]
    assert torch.equal(rel_pos_attention(*across), want)  # type: ignore[arg-type]


def test_torch_compile_and_export_pass_through() -> None:
    tensors = make_inputs((3, 4), 16)
    want = rel_pos_attention(*tensors)
    compiled = torch.compile(rel_pos_attention, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*tensors), want)

    class Module(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return rel_pos_attention(*tensors)

    program = torch.export.export(Module(), tuple(tensors))
    assert "sam_edge.rel_pos_attention" in str(program.graph)
    assert torch.equal(program.module()(*tensors), want)


def test_the_op_is_registered_as_torch_wants_it() -> None:
    tensors = [x.requires_grad_() for x in make_inputs((2, 3), 16)]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")  # compiling has its own test
    torch.library.opcheck(torch.ops.sam_edge.rel_pos_attention.default, tensors, test_utils=checks)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: [t[0].double(), *t[1:]], "key is torch.float32 on"),
        (lambda t: [x.double() for x in t], "query is torch.float64, expected one of torch.float32"),
        (lambda t: [t[0][..., :8], *t[1:]], "query, key, value have shapes"),
        (lambda t: [*t[:4], t[4][:-1]], "table_w has shape (6, 16)"),
        (lambda t: [*t[:4], t[3]], "there are 12 tokens, expected 3 x 3"),
        (lambda t: [x[..., :8] for x in t], "heads are 8 wide, expected 16, 32, 64, 80"),
        (lambda t: [x.to("meta") for x in t], "query is on meta, expected an NVIDIA GPU"),
    ],
)
def test_what_is_not_supported_says_why(change: object, reason: str) -> None:
    tensors = make_inputs((3, 4), 16)
    assert supports(*tensors)
    support = supports(*change(tensors))  # type: ignore[operator]
    assert not support and reason in support.reason


def test_on_the_cpu_without_the_interpreter_the_reference_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    tensors = [x.cpu() for x in make_inputs((3, 4), 16)]
    assert "expected an NVIDIA GPU" in supports(*tensors).reason
    assert torch.equal(rel_pos_attention(*tensors), reference.rel_pos_attention(*tensors))
    with pytest.raises(RuntimeUnavailable, match="expected a GPU that supports"):
        torch.ops.sam_edge.rel_pos_attention(*tensors)


@pytest.mark.parametrize(
    ("block_n", "grid", "tile"),
    [(64, (64, 64), (1, 64)), (64, (32, 32), (2, 32)), (64, (24, 40), (8, 8)), (32, (14, 14), (2, 16))],
)
def test_tiles_leave_the_fewest_places_outside(block_n: int, grid: tuple[int, int], tile: tuple[int, int]) -> None:
    assert tile_shape(block_n, *grid) == tile
