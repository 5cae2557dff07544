"""`python -m sam_edge.kernels.compile_check`: every kernel compiled as each generation launches it, without a GPU.

All head widths, dtypes and kinds of bias, with the tiles of LAUNCHES. Prints registers, spilled bytes and shared
memory, which say whether a tile fits. It cannot say which tile is fast.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch

from sam_edge.errors import require
from sam_edge.kernels.launch import CANDIDATES, HEAD_SPLITS, Launch, head_split, interpreted, launch_for

__all__ = ["Build", "Resources", "builds", "compiled"]

TARGETS = {"ampere": 80, "compact": 86, "hopper": 90, "blackwell": 100}
SHARED_BYTES = {"ampere": 163, "compact": 99, "hopper": 227, "blackwell": 227}  # KiB that a block may have
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
OPS = ("mask_statistics", "rel_pos_attention", "rel_pos_attention_backward", "window_attention")
GRID = 64, 64
WINDOWS = ((14, True), (14, False), (7, False))  # and whether the bias is SAM's or else TinyViT's
PHOTO = 256, 1024, (768, 1024), (1536, 2048)  # cells of a mask, the model's side, the photo in it, the photo
FLOATS = ("scale", "scale_log2", "high", "level", "low")  # the other numbers are integers
FLOAT32 = dict.fromkeys(
    ("rows_ptr", "columns_ptr", "logsumexp_ptr", "delta_ptr", "terms_ptr", "grad_query_ptr", "grad_key_ptr",
     "grad_value_ptr", "grad_rows_ptr", "grad_columns_ptr"), "fp32"
)  # fmt: skip
AXIS_TABLES = {"rows_ptr": "i32", "columns_ptr": "i32", "row_weights_ptr": "fp32", "column_weights_ptr": "fp32"}


@dataclass(frozen=True)
class Build:
    """A kernel for tensors of one dtype, with the named arguments of its launch; pointers: those of another type."""

    kernel: Any
    dtype: str
    what: str
    arguments: Mapping[str, Any]
    pointers: Mapping[str, str] = field(default_factory=dict)


class Resources(NamedTuple):
    """Registers of a thread, bytes of its stack (where spilled registers go), shared bytes of a block."""

    registers: int
    stack: int
    shared: int


def builds(op: str, generation: str, dtype: str, candidates: bool = False) -> Iterator[Build]:
    """What there is to compile of one of OPS; candidates: every tile that the tuner may choose, for LAUNCHES' one."""
    if op == "mask_statistics":
        yield from _mask_builds(dtype)
        return
    make = {
        "rel_pos_attention": _global_builds,
        "rel_pos_attention_backward": _gradient_builds,
        "window_attention": _window_builds,
    }[op]
    torch_dtype = DTYPES[dtype]
    for dim in HEAD_SPLITS:
        row = launch_for(op, generation, torch_dtype, dim)
        yield from make(dtype, dim, CANDIDATES[op, 8 * torch_dtype.itemsize] if candidates else (row,))


def _global_builds(dtype: str, dim: int, launches: Sequence[Launch]) -> Iterator[Build]:
    from sam_edge.kernels.rel_pos_attention import triton_kernel as kernels

    d0, d1 = head_split(dim)
    for axis in ("rows", "columns"):
        arguments = {"BY_ROW": axis == "rows", "D0": d0, "D1": d1, "BLOCK": kernels.TERMS_BLOCK, "IN_FLOAT32": False}
        yield Build(kernels._terms_kernel, dtype, f"{dim} wide, {axis}", arguments | {"num_warps": 4}, FLOAT32)
    for launch in launches:
        arguments = kernels._constants(launch, dim, *GRID)
        yield Build(kernels._forward_kernel, dtype, _said(dim, launch), arguments, FLOAT32)


def _gradient_builds(dtype: str, dim: int, launches: Sequence[Launch]) -> Iterator[Build]:
    from sam_edge.kernels.rel_pos_attention import triton_kernel as kernels

    for launch in launches:
        for kernel in (kernels._query_gradient_kernel, kernels._key_value_gradient_kernel):
            yield Build(kernel, dtype, _said(dim, launch), kernels._constants(launch, dim, *GRID), FLOAT32)


def _window_builds(dtype: str, dim: int, launches: Sequence[Launch]) -> Iterator[Build]:
    from sam_edge.kernels.window_attention import triton_kernel as kernels

    d0, d1 = head_split(dim)
    for launch in launches:
        for window, rel_pos in WINDOWS:
            columns = 8 if window <= 8 else 16
            arguments = {"WINDOW": window, "DISTANCES": 2 * columns, "REL_POS": rel_pos, "D0": d0, "D1": d1,
                         "BLOCK_M": launch.block_m, "TILE_ROWS": launch.block_n // columns, "TILE_COLUMNS": columns,
                         "IN_FLOAT32": False}  # fmt: skip
            arguments |= {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
            bias = f"window {window}" + ", learned" * (not rel_pos)
            yield Build(kernels._forward_kernel, dtype, f"{_said(dim, launch)}, {bias}", arguments)


def _mask_builds(dtype: str) -> Iterator[Build]:
    """Of logits of a dtype: counts with a look at a tile's cells first and without, and masks."""
    from sam_edge.kernels.mask_statistics import triton_kernel as kernels

    always = {"M": kernels.TILE[0], "N": kernels.TILE[1], "num_warps": kernels.WARPS, "enable_fp_fusion": False}
    cells, side, *sizes = PHOTO
    region = [kernels._region(cells, side, *axis) for axis in zip(*sizes, kernels.TILE, strict=True)]
    for rows, columns in (region, (0, 0)):
        arguments = always | {"REGION_ROWS": rows, "REGION_COLUMNS": columns}
        what = f"looks at {rows} x {columns} cells" if rows else "looks at none"
        yield Build(kernels._counts_kernel, dtype, what, arguments, AXIS_TABLES | {"out_ptr": "i32"})
    yield Build(kernels._masks_kernel, dtype, "", always, AXIS_TABLES | {"out_ptr": "u8"})


def _said(dim: int, launch: Launch) -> str:
    return f"{dim} wide, {launch.block_m} x {launch.block_n}, {launch.num_warps}, {launch.num_stages}"


def compiled(build: Build, generation: str) -> Resources:
    """What a build needs on a generation."""
    triton = require("triton", extra="gpu")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constexprs, attributes = {}, {}, {}
    for index, name in enumerate(build.kernel.arg_names):
        if name in build.arguments:
            signature[name], constexprs[index,] = "constexpr", build.arguments[name]
        else:
            signature[name] = _type_of(name, build)
        if name.endswith("_ptr") or "stride" in name:
            attributes[index,] = [["tt.divisibility", 16]]
    options = {name: value for name, value in build.arguments.items() if name not in signature}
    source = ASTSource(fn=build.kernel, signature=signature, constexprs=constexprs, attrs=attributes)
    built = triton.compile(source, target=GPUTarget("cuda", TARGETS[generation], 32), options=options)
    return Resources(*_registers_and_stack(built.asm["cubin"]), built.metadata.shared)


def _type_of(name: str, build: Build) -> str:
    if name.endswith("_ptr"):
        return f"*{build.pointers.get(name, build.dtype)}"
    return "fp32" if name in FLOATS else "i32"


def _registers_and_stack(cubin: bytes) -> tuple[int, int]:
    tool = Path(str(require("triton", extra="gpu").__file__)).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", text.stdout)
    if found is None:
        raise ValueError(f"cuobjdump printed no registers: {text.stdout!r}")
    return int(found[1]), int(found[2])


@click.command(epilog="Example: python -m sam_edge.kernels.compile_check --generation hopper --op window_attention")
@click.option("--generation", type=click.Choice(sorted(TARGETS)), help="Only this one.")
@click.option("--op", type=click.Choice(OPS), help="Only this one.")
@click.option("--dtype", type=click.Choice(sorted(DTYPES)), help="Only this one.")
@click.option("--candidates", is_flag=True, help="All that the tuner may choose, not only the rows of LAUNCHES.")
def main(generation: str | None, op: str | None, dtype: str | None, candidates: bool) -> None:
    """Compile the kernels for their GPUs and print what they need."""
    if interpreted():
        print("TRITON_INTERPRET is set, and then nothing is compiled. Unset it.", file=sys.stderr)
        raise SystemExit(1)
    print(f"{'kernel':28} {'GPU':10} dtype {'what':43} registers stack B shared KiB")
    for gpu in (generation,) if generation else TARGETS:
        for each_op in (op,) if op else OPS:
            for each_dtype in (dtype,) if dtype else DTYPES:
                for build in builds(each_op, gpu, each_dtype, candidates):
                    print(_line(build, gpu), flush=True)


def _line(build: Build, generation: str) -> str:
    registers, stack, shared = compiled(build, generation)
    too_much = "  too much" if shared > 1024 * SHARED_BYTES[generation] else ""
    return (
        f"{build.kernel.__name__:28} {generation:10} {build.dtype:5} {build.what:43} {registers:9} {stack:7} "
        f"{shared / 1024:10.0f}{too_much}"
    )


if __name__ == "__main__":
    main()
