"""The commands around the kernels, as far as they go without a GPU: cases, baselines, tuning, table."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sam_edge.benchmarks.kernels_cases import (
    PLAIN,
    Case,
    EncoderCase,
    Variant,
    all_cases,
    global_case,
    mask_case,
    window_case,
)
from sam_edge.benchmarks.kernels_table import END, MISSING, START, render
from sam_edge.kernels.launch import CANDIDATES, GENERATIONS, HEAD_SPLITS, LAUNCHES, Launch, launch_for
from sam_edge.kernels.measure import largest_error
from sam_edge.model.registry import build_model
from tests.kernels.compare import DEVICE, relative_error

ROOT = Path(__file__).parents[2]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="what the commands say without a GPU")
SMALL = {
    "global": global_case("small", 2, 32, (5, 4)),
    "gradients": global_case("small", 1, 16, (3, 4), backward=True),
    "windows": window_case("small", 2, 16, 3, (4, 5)),
    "learned": window_case("small", 2, 16, 3, (4, 5), learned=True),
    "masks": mask_case(3, 16, (48, 40)),
}


def parts(result: Any) -> list[Tensor]:
    return [part.detach() for part in ([result] if isinstance(result, Tensor) else result)]


@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_every_variant_of_the_benchmark_computes_the_same(case: Case) -> None:
    inputs = case.inputs(torch.device(DEVICE), torch.float32)
    want = parts(case.exact(*inputs))
    assert "triton" in case.variants and any(variant.compiled for variant in case.variants.values())
    for name, variant in case.variants.items():
        if case.op.endswith("gradients") and name.startswith("flex"):
            continue  # FlexAttention has gradients under torch.compile on a GPU only
        if variant.comparable:  # compiled or not: it is the same function
            got = parts(variant.run(*inputs))
            assert all(relative_error(a, b) <= 1e-5 for a, b in zip(got, want, strict=True)), name
        else:
            assert name == PLAIN


def test_floors_are_those_of_the_readme() -> None:
    vit_b, vit_h = (global_case(name, *size) for name, size in (("vit_b", (12, 64)), ("vit_h", (16, 80))))
    assert vit_b.flops == pytest.approx(51.5e9, rel=1e-3) and vit_b.bytes == 25165824
    assert vit_h.flops == pytest.approx(85.9e9, rel=1e-3) and vit_h.bytes == 41943040
    windows = window_case("vit_b", 12, 64)
    assert windows.flops == pytest.approx(2.466e9, rel=1e-3) and windows.bytes == 25165824
    readmes = {
        op: (ROOT / "kernels" / op / "README.md").read_text() for op in ("rel_pos_attention", "window_attention")
    }
    assert "51.5" in readmes["rel_pos_attention"] and "85.9" in readmes["rel_pos_attention"]
    assert "2.47" in readmes["window_attention"] and "25.2" in readmes["window_attention"]


def test_the_table_of_launches_has_a_row_for_every_gpu_and_head() -> None:
    for op, bits in CANDIDATES:
        dtype = torch.bfloat16 if bits == 16 else torch.float32
        for generation in set(GENERATIONS.values()):
            for dim in HEAD_SPLITS:
                launch = launch_for(op, generation, dtype, dim)
                assert (launch.block_m, launch.block_n) in {(x.block_m, x.block_n) for x in CANDIDATES[op, bits]}
    assert len(LAUNCHES) == len(CANDIDATES) * len(set(GENERATIONS.values()))


@pytest.mark.parametrize("op", sorted({op for op, _ in CANDIDATES}))
def test_the_tuner_takes_the_fastest_of_those_that_are_right_in_every_result(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sam_edge.kernels import tune

    run, exact = tune.problem(op, 64, torch.float32, torch.device(DEVICE), heads=1, side=5)
    right, slow, *wrong = (Launch(64, 32, 4, stages) for stages in range(2 + len(exact)))
    monkeypatch.setitem(CANDIDATES, (op, 32), (slow, *wrong, right))
    times = {right: 2.0, slow: 3.0}
    tried: list[Launch] = []

    def broken(launch: Launch) -> tuple[Tensor, ...]:
        """Each wrong candidate in another result, and faster than the right ones."""
        tried.append(launch)
        results = list(run(launch))
        if launch in wrong:
            results[wrong.index(launch)] *= 1.01
        return tuple(results)

    found = tune.fastest(op, broken, exact, torch.float32, lambda call: (call(), times.get(tried[-1], 1.0))[1])
    assert found == (2.0, right) and set(tried) == {right, slow, *wrong}


@pytest.mark.parametrize("name", ["gradients", "masks"])
def test_the_benchmark_refuses_a_variant_that_is_wrong_in_one_of_its_results(name: str) -> None:
    from sam_edge.benchmarks import kernels

    case = SMALL[name]
    inputs = case.inputs(torch.device(DEVICE), torch.float32)
    want = kernels._parts(case.exact(*inputs))
    right = parts(case.variants["eager"].run(*inputs))
    assert len(want) == len(right) == {"gradients": 6, "masks": 2}[name]
    for index, part in enumerate(right):
        changed = ~part if part.dtype == torch.bool else 0.8 * part
        wrong = (*right[:index], changed, *right[index + 1 :])
        found = kernels._measure_variant(Variant(lambda *_, wrong=wrong: wrong), inputs, want)
        assert "wrong result" in found["skipped"], index


@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)
def test_the_benchmark_takes_every_variant_in_half_precision(case: Case) -> None:
    from sam_edge.benchmarks import kernels

    inputs = case.inputs(torch.device(DEVICE), kernels.DTYPE)
    want = kernels._parts(case.exact(*kernels._in_float32(inputs)))
    for name, variant in case.variants.items():
        if variant.comparable and not name.startswith("flex"):  # which computes in half on a GPU only
            assert largest_error(parts(variant.run(*inputs)), want) < kernels.MAX_ERROR, name


def test_an_error_is_that_of_the_worst_part_and_nan_is_one() -> None:
    large, small, mask = torch.tensor([64.0, -128.0]), torch.tensor([1.0, 2.0]), torch.tensor([True, False, False])
    want = large, small, mask
    assert largest_error(want, want) == 0
    assert largest_error((large, small + 1, mask), want) == 0.5
    assert largest_error((large + 1, small, mask), want) == 1 / 128
    assert largest_error((large, small, ~mask), want) == 3  # wrong pixels for one that should be set
    for index in range(2):
        with_nan = [part * float("nan") if i == index else part for i, part in enumerate(want)]
        assert math.isnan(largest_error(with_nan, want))
    with pytest.raises(ValueError, match=r"shape \(1, 2\), expected \(2,\)"):
        largest_error((large, small[None], mask), want)


def test_the_gpu_waits_longer_than_the_host_queues() -> None:
    from sam_edge.kernels import measure

    assert measure._wait_s(0.003) >= 2 * 0.003
    assert measure._wait_s(1e-6) == measure.FLOOR_S
    fastest_clock = 3e9
    assert measure._wait_s(0.003) * measure.ASSUMED_HZ / fastest_clock > 0.003


def test_a_case_without_a_reference_is_a_row_that_says_so() -> None:
    from sam_edge.benchmarks import kernels

    def too_large(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError

    case = replace(SMALL["windows"], exact=too_large)
    records = list(kernels._measure_op(case, torch.device(DEVICE), time.monotonic() + 60))
    assert [record["variant"] for record in records] == list(case.variants)
    assert {record["skipped"] for record in records} == {"no reference: out of memory"}


def test_a_run_writes_a_record_for_every_variant_and_fills_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command on small shapes; in place of a GPU's clock and compiler, a constant and nothing."""
    from sam_edge.benchmarks import kernels
    from tests.kernels.test_in_models import CONFIGS

    calls: list[Any] = []

    def timed(run: Any) -> dict[str, Any]:
        calls.append(run())
        return {"p50_ms": 2.0, "p10_ms": 1.0, "p90_ms": 3.0, "peak_bytes": 10, "samples_ms": [1.0, 2.0, 3.0]}

    cases = [SMALL["windows"], EncoderCase("vit", 1), EncoderCase("vit", 2), SMALL["masks"]]
    fakes = {"_gpu": lambda: torch.device(DEVICE), "_timed": timed, "_free": lambda: None, "all_cases": lambda: cases,
             "_copy_rate": lambda _: 1e9, "_matrix_rate": lambda _: 1e12,
             "build_model": lambda name: build_model(CONFIGS[name])}  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(kernels, name, fake)
    monkeypatch.setattr(torch, "compile", lambda run, **_: run)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU (80 GB)")
    page = tmp_path / "page.md"
    page.write_text(f"before {START} old {END} after")

    path = kernels.measure(tmp_path, 5.0, [page])
    assert path.name == "kernels-a-gpu-80-gb.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record.get("skipped") for record in records] == [None] * len(records)
    assert len(records) == 1 + sum(len(case.variants) for case in (cases[0], cases[3])) + 2 * 6 == len(calls) + 1
    assert list(dict.fromkeys(record["op"] for record in records)) == [
        "machine", "windowed attention", "encoder", "mask statistics"]  # fmt: skip
    windows = next(record for record in records if record["op"] == "windowed attention")
    assert windows["error"] < 0.02 and windows["share_of_copy_bandwidth"] == windows["bytes"] / 2e-3 / 1e9
    assert all(record["difference"] < 0.1 for record in records if record["op"] == "encoder")
    assert "A GPU (80 GB), bfloat16" in page.read_text() and page.read_text().endswith(f"{END} after")

    kernels.measure(tmp_path, 0.0, [])
    late = [json.loads(line) for line in path.read_text().splitlines()][len(records) + 1 :]
    assert late and all("no time left" in record["skipped"] for record in late)


def compile_check(folder: Path, *options: str) -> list[str]:
    """The lines of the command, which compiles anew."""
    done = run_module("sam_edge.kernels.compile_check", *options, folder=folder, TRITON_CACHE_DIR=str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    assert "too much" not in done.stdout
    return done.stdout.splitlines()[1:]


def run_module(name: str, *options: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python -m name`, without the interpreter of Triton."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | variables
    command = [sys.executable, "-m", name, *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_kernels_of_masks_compile_for_a_gpu(tmp_path: Path) -> None:
    lines = compile_check(tmp_path, "--generation", "hopper", "--op", "mask_statistics", "--dtype", "fp32")
    assert [line.split()[0] for line in lines] == ["_counts_kernel", "_counts_kernel", "_masks_kernel"]


@pytest.mark.slow
def test_every_kernel_compiles_for_hopper_with_every_width_dtype_and_bias(tmp_path: Path) -> None:
    lines = compile_check(tmp_path, "--generation", "hopper")
    defined = re.findall(
        r"^def (_\w+_kernel)\(", "".join(path.read_text() for path in (ROOT / "kernels").glob("*/*.py")), re.MULTILINE
    )
    assert len(defined) == 7 and {line.split()[0] for line in lines} == set(defined)
    for dtype in ("fp32", "fp16", "bf16"):
        for width in HEAD_SPLITS:
            built = [line for line in lines if line.split()[2:5] == [dtype, str(width), "wide,"]]
            assert len(built) == 2 + 1 + 2 + 3  # terms, forward, backward, windows
            assert sum("learned" in line for line in built) == 2


@NO_GPU
@pytest.mark.parametrize("command", ["sam_edge.benchmarks kernels", "sam_edge.kernels.tune"])
def test_without_a_gpu_a_command_says_in_one_line_what_it_needs(command: str, tmp_path: Path) -> None:
    done = run_module(*command.split(), folder=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "NVIDIA GPU" in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["docs/kernels.md", "README.md"])
def test_without_records_every_figure_of_the_page_is_not_measured_yet(name: str) -> None:
    page = (ROOT / name).read_text()
    results = sorted((ROOT / "benchmarks" / "results").glob("kernels-*.jsonl"))
    records = [json.loads(line) for path in results for line in path.read_text().splitlines()]
    assert page.split(START)[1].split(END)[0].strip() == render(records), (
        "python -m sam_edge.benchmarks kernels writes it"
    )
    assert render([]).count("\n") == 3 + sum(1 for _ in all_cases())
    figures = [cell for line in render([]).splitlines()[4:] for cell in line.split(" | ")[3:]]
    assert {cell.strip(" |") for cell in figures} == {MISSING, ""}


def test_the_table_is_filled_from_the_newest_run() -> None:
    case = global_case("vit_b", 12, 64)
    common = {"gpu": "A GPU", "dtype": "torch.bfloat16", "op": case.op, "shape": case.shape, "batch": 1}
    shares = {"share_of_matrix_rate": 0.5, "share_of_copy_bandwidth": 0.25, "peak_bytes": 10}
    old = {"run": "2020", "variant": "triton", "p50_ms": 9.0} | common | shares
    new = [
        {"run": "2021", "variant": variant, "p50_ms": ms} | common | shares
        for variant, ms in (("triton", 0.1), ("eager", 0.8), ("flex, compiled", 0.2), (PLAIN, 0.08))
    ]
    new.append({"run": "2021", "variant": "concatenated", "skipped": "out of memory"} | common)
    row = next(line for line in render([old, *new]).splitlines() if line.startswith(f"| {case.op} | {case.shape} | 1"))
    assert row == (
        f"| {case.op} | {case.shape} | 1 | 0.100 | 0.200 (flex, compiled) | 2.00 | 50% | 25% | 80% | {MISSING} |"
    )


def test_the_table_says_why_a_kernel_has_no_time() -> None:
    case = global_case("vit_b", 12, 64)
    common = {"run": "2021", "gpu": "A GPU", "dtype": "torch.bfloat16", "op": case.op, "shape": case.shape, "batch": 1}
    skipped = {"variant": "triton", "skipped": "wrong result, off by 2.0e-01 of the largest value"}
    row = next(line for line in render([common | skipped]).splitlines() if line.startswith(f"| {case.op}"))
    assert row.split(" | ")[3:5] == [skipped["skipped"], MISSING]
