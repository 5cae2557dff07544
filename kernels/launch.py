"""How kernels are launched: tile sizes per GPU generation, as a table that is read and edited like text.

`python -m sam_edge.kernels.tune` measures on the GPU at hand and prints rows for LAUNCHES. None of the present rows was
timed: they are the largest tiles that `python -m sam_edge.kernels.compile_check` shows to fit registers and shared
memory without spilling much, or, where nothing fits well, the smallest loss.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = [
    "CANDIDATES",
    "GENERATIONS",
    "HEAD_SPLITS",
    "LAUNCHES",
    "Launch",
    "generation_of",
    "has_triton",
    "head_split",
    "interpreted",
    "launch_for",
    "on_device_of",
    "tile_shape",
]


@dataclass(frozen=True)
class Launch:
    """block_m: queries of a program; block_n: keys of a tile, both powers of two from 16 up; the rest is Triton's."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


# A head's width as two powers of two, so that matrix units work on 80 and not on 128 columns.
HEAD_SPLITS: dict[int, tuple[int, int]] = {16: (16, 0), 32: (32, 0), 64: (64, 0), 80: (64, 16)}

# Compute capability -> generation. "compact" has 99 KiB of shared memory for a block, the others 163 KiB and more.
GENERATIONS: dict[tuple[int, int], str] = {
    (8, 0): "ampere",
    (8, 6): "compact",
    (8, 9): "compact",
    (9, 0): "hopper",
    (10, 0): "blackwell",
    (10, 3): "blackwell",
    (12, 0): "compact",
}

# (op, generation, bits of an element): head width -> launch. A narrower head takes the next wider row.
LAUNCHES: dict[tuple[str, str, int], dict[int, Launch]] = {
    ("rel_pos_attention", "ampere", 16): {64: Launch(128, 64, 8, 2), 80: Launch(128, 64, 8, 2)},
    ("rel_pos_attention", "compact", 16): {64: Launch(64, 64, 4, 2), 80: Launch(64, 64, 4, 2)},
    ("rel_pos_attention", "hopper", 16): {64: Launch(128, 64, 8, 3), 80: Launch(128, 64, 8, 3)},
    ("rel_pos_attention", "blackwell", 16): {64: Launch(128, 64, 8, 3), 80: Launch(128, 64, 8, 3)},
    ("rel_pos_attention", "ampere", 32): {64: Launch(64, 32, 8, 2), 80: Launch(64, 32, 8, 2)},
    ("rel_pos_attention", "compact", 32): {64: Launch(32, 32, 4, 2), 80: Launch(32, 32, 4, 2)},
    ("rel_pos_attention", "hopper", 32): {64: Launch(64, 32, 8, 2), 80: Launch(64, 32, 8, 2)},
    ("rel_pos_attention", "blackwell", 32): {64: Launch(64, 32, 8, 2), 80: Launch(64, 32, 8, 2)},
    ("rel_pos_attention_backward", "ampere", 16): {64: Launch(128, 32, 8, 2), 80: Launch(64, 32, 4, 2)},
    ("rel_pos_attention_backward", "compact", 16): {64: Launch(64, 32, 4, 2), 80: Launch(64, 32, 4, 2)},
    ("rel_pos_attention_backward", "hopper", 16): {64: Launch(128, 32, 8, 2), 80: Launch(64, 32, 4, 2)},
    ("rel_pos_attention_backward", "blackwell", 16): {64: Launch(128, 32, 8, 2), 80: Launch(64, 32, 4, 2)},
    ("rel_pos_attention_backward", "ampere", 32): {64: Launch(32, 32, 4, 2), 80: Launch(32, 32, 4, 2)},
    ("rel_pos_attention_backward", "compact", 32): {64: Launch(32, 32, 4, 2), 80: Launch(32, 32, 4, 2)},
    ("rel_pos_attention_backward", "hopper", 32): {64: Launch(32, 32, 4, 2), 80: Launch(32, 32, 4, 2)},
    ("rel_pos_attention_backward", "blackwell", 32): {64: Launch(32, 32, 4, 2), 80: Launch(32, 32, 4, 2)},
    ("window_attention", "ampere", 16): {64: Launch(64, 32, 4, 2), 80: Launch(64, 32, 4, 2)},
    ("window_attention", "compact", 16): {64: Launch(64, 32, 4, 2), 80: Launch(64, 32, 4, 2)},
    ("window_attention", "hopper", 16): {64: Launch(64, 32, 4, 2), 80: Launch(64, 32, 4, 2)},
    ("window_attention", "blackwell", 16): {64: Launch(64, 32, 4, 2), 80: Launch(64, 32, 4, 2)},
    ("window_attention", "ampere", 32): {64: Launch(32, 32, 8, 2), 80: Launch(16, 32, 8, 2)},
    ("window_attention", "compact", 32): {64: Launch(32, 32, 8, 2), 80: Launch(16, 32, 8, 2)},
    ("window_attention", "hopper", 32): {64: Launch(32, 32, 8, 2), 80: Launch(16, 32, 8, 2)},
    ("window_attention", "blackwell", 32): {64: Launch(32, 32, 8, 2), 80: Launch(16, 32, 8, 2)},
}

# What the tuner may choose from, by bits of an element. Tests check each of these tile shapes.
CANDIDATES: dict[tuple[str, int], tuple[Launch, ...]] = {
    (op, bits): tuple(
        Launch(block_m, block_n, num_warps, num_stages)
        for block_m, block_n in blocks
        for num_warps in (4, 8)
        for num_stages in (2, 3)
    )
    for op, bits, blocks in (
        ("rel_pos_attention", 16, ((64, 32), (64, 64), (64, 128), (128, 32), (128, 64), (128, 128))),
        ("rel_pos_attention", 32, ((32, 32), (64, 32), (64, 64))),
        ("rel_pos_attention_backward", 16, ((32, 64), (64, 32), (64, 64), (128, 32))),
        ("rel_pos_attention_backward", 32, ((32, 32), (64, 32))),
        ("window_attention", 16, ((16, 32), (32, 32), (64, 32), (64, 64), (128, 32), (128, 64))),
        ("window_attention", 32, ((16, 32), (32, 32), (64, 32))),
    )
}


def head_split(dim: int) -> tuple[int, int]:
    """The two parts of a head of width `dim`; KeyError where no kernel takes it."""
    return HEAD_SPLITS[dim]


def tile_shape(block_n: int, height: int, width: int, min_columns: int = 8) -> tuple[int, int]:
    """A tile of block_n keys as (rows, columns) of a grid, powers of two, such that the fewest places lie outside.

    64 keys are 1 x 64 of a 64 x 64 grid, 2 x 32 of 32 x 32, 8 x 8 of 24 x 40. Of equals the widest, which reads the
    longest runs of memory.
    """
    shapes = [(block_n // columns, columns) for columns in _powers_of_two(min(min_columns, block_n), block_n)]

    def covered(shape: tuple[int, int]) -> int:
        return (-(-height // shape[0]) * shape[0]) * (-(-width // shape[1]) * shape[1])

    return min(shapes, key=lambda shape: (covered(shape), -shape[1]))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def generation_of(device: torch.device) -> str | None:
    """The generation of LAUNCHES a device belongs to; None where kernels do not run. The interpreter is a "hopper"."""
    if device.type != "cuda":
        return "hopper" if device.type == "cpu" and interpreted() else None
    return GENERATIONS.get(_capability(device.index or 0))


def launch_for(op: str, generation: str, dtype: torch.dtype, dim: int) -> Launch:
    """The row of LAUNCHES for a head width that HEAD_SPLITS has."""
    rows = LAUNCHES[op, generation, 8 * dtype.itemsize]
    return rows[min(width for width in rows if width >= dim)]


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on torch's current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_triton() -> bool:
    return find_spec("triton") is not None


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU: Triton's own switch TRITON_INTERPRET, read by Triton."""
    if not has_triton():
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)


@cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def _powers_of_two(low: int, high: int) -> list[int]:
    return [
        1 << exponent for exponent in range(low.bit_length() - 1, high.bit_length()) if low <= 1 << exponent <= high
    ]
