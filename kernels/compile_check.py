"""`python -m sam_edge.kernels.compile_check`: every row of LAUNCHES compiled for its generation, without a GPU.

Prints registers, spilled bytes and shared memory, which say whether a tile fits. It cannot say which tile is fast.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from sam_edge.errors import require
from sam_edge.kernels.launch import CANDIDATES, LAUNCHES, Launch, head_split, interpreted, tile_shape

__all__ = ["compiled"]

TARGETS = {"ampere": 80, "compact": 86, "hopper": 90, "blackwell": 100}
SHARED_BYTES = {"ampere": 163, "compact": 99, "hopper": 227, "blackwell": 227}  # KiB that a block may have
FLOAT32_POINTERS = ("rows_ptr", "columns_ptr", "logsumexp_ptr", "delta_ptr", "terms_ptr", "grad_query_ptr",
                    "grad_key_ptr", "grad_value_ptr", "grad_rows_ptr", "grad_columns_ptr")  # fmt: skip
GRID = {"rel_pos_attention": (64, 64), "rel_pos_attention_backward": (64, 64), "window_attention": (14, 14)}


def kernels_of(op: str) -> list[Any]:
    """The jitted functions that a row of LAUNCHES configures."""
    from sam_edge.kernels.rel_pos_attention import triton_kernel as rel_pos
    from sam_edge.kernels.window_attention import triton_kernel as window

    return {
        "rel_pos_attention": [rel_pos._forward_kernel],
        "rel_pos_attention_backward": [rel_pos._query_gradient_kernel, rel_pos._key_value_gradient_kernel],
        "window_attention": [window._forward_kernel],
    }[op]


def compiled(op: str, generation: str, bits: int, dim: int, launch: Launch) -> Iterator[tuple[str, int, int, int]]:
    """(kernel, registers of a thread, bytes of its stack, shared bytes of a block) of each kernel, for SAM's shapes."""
    triton = require("triton", extra="gpu")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    d0, d1 = head_split(dim)
    rows, columns = tile_shape(launch.block_n, *GRID[op])
    constants = {"D0": d0, "D1": d1, "BLOCK_M": launch.block_m, "TILE_ROWS": rows, "TILE_COLUMNS": columns,
                 "IN_FLOAT32": False, "WINDOW": 14, "DISTANCES": 32, "REL_POS": True}  # fmt: skip
    for kernel in kernels_of(op):
        signature, constexprs, attributes = {}, {}, {}
        for index, name in enumerate(kernel.arg_names):
            if name.isupper() or name in constants:
                signature[name], constexprs[index,] = "constexpr", constants[name]
            elif name.endswith("_ptr"):
                signature[name] = "*fp32" if bits == 32 or name in FLOAT32_POINTERS else "*bf16"
                attributes[index,] = [["tt.divisibility", 16]]
            else:
                signature[name] = "fp32" if name.startswith("scale") else "i32"
                if "stride" in name:
                    attributes[index,] = [["tt.divisibility", 16]]
        source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=attributes)
        target = GPUTarget("cuda", TARGETS[generation], 32)
        options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
        built = triton.compile(source, target=target, options=options)
        registers, stack = _resources(built.asm["cubin"])
        yield kernel.__name__, registers, stack, built.metadata.shared


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread and bytes of its stack, which is where spilled registers go."""
    tool = Path(str(require("triton", extra="gpu").__file__)).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", text.stdout)
    if found is None:
        raise ValueError(f"cuobjdump printed no registers: {text.stdout!r}")
    return int(found[1]), int(found[2])


@click.command(epilog="Example: python -m sam_edge.kernels.compile_check --generation hopper")
@click.option("--generation", type=click.Choice(sorted(TARGETS)), help="Only this one.")
@click.option("--op", type=click.Choice(sorted(GRID)), help="Only this one.")
@click.option("--candidates", is_flag=True, help="All that the tuner may choose, not only the rows of LAUNCHES.")
def main(generation: str | None, op: str | None, candidates: bool) -> None:
    """Compile the table's kernels for their GPUs and print what they need."""
    if interpreted():
        print("TRITON_INTERPRET is set, and then nothing is compiled. Unset it.", file=sys.stderr)
        raise SystemExit(1)
    print(f"{'kernel':28} {'GPU':10} bits dim {'launch':>18} registers stack B shared KiB")
    for (row_op, row_generation, bits), rows in LAUNCHES.items():
        if generation not in (None, row_generation) or op not in (None, row_op):
            continue
        for dim, launch in rows.items():
            for each in CANDIDATES[row_op, bits] if candidates else (launch,):
                for name, registers, stack, shared in compiled(row_op, row_generation, bits, dim, each):
                    shape = f"{each.block_m} x {each.block_n}, {each.num_warps}, {each.num_stages}"
                    too_much = "  too much" if shared > 1024 * SHARED_BYTES[row_generation] else ""
                    print(f"{name:28} {row_generation:10} {bits:4} {dim:3} {shape:>18} {registers:9} {stack:7} "
                          f"{shared / 1024:10.0f}{too_much}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
