"""What the interpreter cannot show: SAM's full sizes, compiled kernels, memory, and what torch does around them."""

from __future__ import annotations

import time
from statistics import median

import pytest
import torch
from torch import nn

from sam_edge.benchmarks.kernels import _in_float32
from sam_edge.benchmarks.kernels_cases import HEADS, TINYVIT_STAGES, Case, global_case, mask_case, window_case
from sam_edge.kernels import rel_pos_attention
from sam_edge.kernels.launch import CANDIDATES
from sam_edge.kernels.measure import device_times, largest_error
from sam_edge.kernels.tune import MAX_ERROR, problem
from sam_edge.model.registry import build_model

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# As in tests/kernels: a few roundings of the largest value.
ALLOWED = {torch.float32: 1e-5, torch.float16: 4 * 2.0**-11, torch.bfloat16: 4 * 2.0**-8}
DEVICE = torch.device("cuda", 0)
CASES = [
    *(global_case(name, *size, batch=batch) for name, size in HEADS.items() for batch in (1, 2)),
    *(global_case("vit_b", 12, 64, grid) for grid in ((32, 32), (24, 40), (63, 65))),
    *(window_case(name, *size, batch=batch) for name, size in HEADS.items() for batch in (1, 2)),
    *(window_case(name, heads, dim, window, (side, side), learned=True)
      for name, (side, heads, dim, window) in TINYVIT_STAGES.items()),
]  # fmt: skip


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.float() - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}, {case.shape}, {case.batch}")
def test_full_sizes_are_near_the_reference(case: Case, dtype: torch.dtype) -> None:
    inputs = case.inputs(DEVICE, dtype)
    wide = _in_float32(inputs)
    want = case.exact(*wide)
    got = case.variants["triton"].run(*inputs)
    # Errors are shares of the largest value that is averaged, which is 2 to 4 times the largest mean.
    assert error(got, want) <= 4 * ALLOWED[dtype]


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32), ids=str)
@pytest.mark.parametrize("dim", (64, 80))
@pytest.mark.parametrize("op", sorted({op for op, _ in CANDIDATES}))
def test_every_candidate_that_fits_is_right(op: str, dim: int, dtype: torch.dtype) -> None:
    """In all of its results: a candidate of the backward pass in five."""
    run, exact = problem(op, dim, dtype, DEVICE, heads=2, side=33)
    ran = 0
    for launch in CANDIDATES[op, 8 * dtype.itemsize]:
        try:
            got = run(launch)
        except Exception as failure:
            assert "OutOfResources" in type(failure).__name__, launch
            continue
        ran += 1
        assert largest_error(got, exact) <= MAX_ERROR[dtype], launch
    assert ran


def test_nothing_of_the_size_of_all_pairs_of_tokens_is_held() -> None:
    case = global_case("vit_b", 12, 64)
    peaks = {}
    for name in ("triton", "sdpa with bias"):
        inputs = case.inputs(DEVICE, torch.bfloat16)
        case.variants[name].run(*inputs)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        case.variants[name].run(*inputs)
        torch.cuda.synchronize()
        peaks[name] = torch.cuda.max_memory_allocated() - before
    assert peaks["triton"] < 0.5 * peaks["sdpa with bias"]
    assert peaks["triton"] < 12 * 4096**2  # a byte for each pair


def test_gradients_at_full_size_are_near_the_reference() -> None:
    case = global_case("vit_b", 2, 64, backward=True)
    inputs = case.inputs(DEVICE, torch.bfloat16)
    got = case.variants["triton"].run(*inputs)
    want = case.exact(*(x.detach().float().requires_grad_() for x in inputs))
    assert all(error(a, b) <= 8 * 2.0**-8 for a, b in zip(got, want, strict=True))


def test_mask_statistics_of_a_decoder_call_are_exact() -> None:
    """But for pixels within rounding of a level: torch's positions are float32, the kernel's float64."""
    case = mask_case()
    (low_res,) = case.inputs(DEVICE, torch.float32)
    areas, masks = case.variants["triton"].run(low_res)
    want_areas, want_masks = case.exact(low_res)
    assert (masks != want_masks).float().mean() < 1e-5
    assert ((areas - want_areas).abs() <= 1e-4 * want_areas + 4).all()


@pytest.mark.parametrize("name", ["vit_b", "vit_t"])
def test_masks_of_a_whole_model_are_the_same_with_kernels(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name).to(DEVICE)
    for key, parameter in model.named_parameters():
        if "rel_pos" in key or "attention_biases" in key or "pos_embed" in key:
            nn.init.normal_(parameter, std=0.2)
    image = torch.randn(1, 3, 1024, 1024, device=DEVICE)
    prompts = (torch.tensor([[[400.0, 500.0]]]), torch.ones(1, 1), torch.zeros(1, 1, 256, 256), torch.zeros(1))
    masks = {}
    with torch.inference_mode():
        for path in ("reference", "sdpa", "auto"):
            model.use_attention(path)
            masks[path] = model.decode(model.encode(image), *(x.to(DEVICE) for x in prompts))[0] > 0
    for path in ("sdpa", "auto"):
        both, either = masks[path] & masks["reference"], masks[path] | masks["reference"]
        assert both.sum() / either.sum() >= 0.999


def test_the_time_of_a_call_is_without_the_hosts() -> None:
    """Two launches of microseconds, and between them a host that does other things for 5 ms."""
    x = torch.zeros(1, device=DEVICE)

    def run() -> None:
        x.add_(1)
        time.sleep(5e-3)
        x.add_(1)

    times = device_times(run)
    assert times.late < len(times.ms) / 4
    assert 0 < median(times.ms) < 0.5


def test_a_call_that_waits_for_the_gpu_is_late() -> None:
    x = torch.zeros(1, device=DEVICE)
    times = device_times(lambda: x.add_(1).item())
    assert times.late == len(times.ms) >= 10


def test_torch_compile_takes_the_kernel_in() -> None:
    inputs = global_case("vit_b", 2, 64, (32, 32)).inputs(DEVICE, torch.bfloat16)
    compiled = torch.compile(rel_pos_attention, fullgraph=True)
    assert torch.equal(compiled(*inputs), rel_pos_attention(*inputs))


def test_a_second_gpu_is_used_where_the_tensors_are() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    inputs = global_case("small", 2, 64, (16, 16)).inputs(torch.device("cuda", 1), torch.bfloat16)
    assert rel_pos_attention(*inputs).device.index == 1
