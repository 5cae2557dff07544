"""The commands around the kernels, as far as they go without a GPU: cases, baselines, tuning, table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sam_edge.benchmarks.kernels_cases import PLAIN, Case, global_case, mask_case, op_cases, window_case
from sam_edge.benchmarks.kernels_table import END, MISSING, START, render
from sam_edge.kernels.launch import CANDIDATES, GENERATIONS, HEAD_SPLITS, LAUNCHES, Launch, launch_for
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
def test_the_tuner_takes_the_fastest_of_those_that_are_right(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sam_edge.kernels import tune

    right, slow, wrong = Launch(64, 32, 4, 2), Launch(32, 64, 8, 3), Launch(64, 64, 8, 2)
    monkeypatch.setitem(CANDIDATES, (op, 32), (slow, wrong, right))
    run, exact = tune.problem(op, 64, torch.float32, torch.device(DEVICE), heads=1, side=5)
    times = {wrong: 1.0, right: 2.0, slow: 3.0}
    tried: list[Launch] = []

    def broken(launch: Launch) -> Tensor:
        tried.append(launch)
        return run(launch) * (1.01 if launch == wrong else 1)

    assert tune.fastest(op, broken, exact, torch.float32, lambda call: (call(), times[tried[-1]])[1]) == (2.0, right)


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

    cases = [SMALL["windows"], SMALL["masks"]]
    fakes = {"_gpu": lambda: torch.device(DEVICE), "_timed": timed, "_free": lambda: None, "ENCODERS": ("vit",),
             "op_cases": lambda: cases, "_copy_rate": lambda _: 1e9, "_matrix_rate": lambda _: 1e12,
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
    assert len(records) == 1 + sum(len(case.variants) for case in cases) + 2 * 6 == len(calls) + 1
    windows = next(record for record in records if record["op"] == "windowed attention")
    assert windows["error"] < 0.02 and windows["share_of_copy_bandwidth"] == windows["bytes"] / 2e-3 / 1e9
    assert all(record["difference"] < 0.1 for record in records if record["op"] == "encoder")
    assert "A GPU (80 GB), bfloat16" in page.read_text() and page.read_text().endswith(f"{END} after")

    kernels.measure(tmp_path, 0.0, [])
    late = [json.loads(line) for line in path.read_text().splitlines()][len(records) + 1 :]
    assert late and all("no time left" in record["skipped"] for record in late)


@NO_GPU
@pytest.mark.parametrize("command", ["sam_edge.benchmarks kernels", "sam_edge.kernels.tune"])
def test_without_a_gpu_a_command_says_in_one_line_what_it_needs(command: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
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
    assert render([]).count("\n") == 3 + sum(1 for _ in op_cases()) + 6
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
