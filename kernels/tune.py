"""`python -m sam_edge.kernels.tune`: time every candidate on the GPU at hand and print rows for launch.py.

Each candidate is compared with the reference first; a wrong one is never printed as the fastest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import click
import torch
from torch import Tensor

from sam_edge.kernels.launch import CANDIDATES, Launch, generation_of, has_triton, interpreted
from sam_edge.kernels.rel_pos_attention import reference as global_reference
from sam_edge.kernels.window_attention import reference as window_reference

__all__ = ["fastest", "problem"]

SHAPES = {64: (12, 64), 80: (16, 64)}  # head width -> heads of ViT-B and ViT-H, side of their map
MAX_ERROR = {torch.bfloat16: 2e-2, torch.float32: 1e-5}  # of the largest value: see the tests
SAMPLES = 30

Run = Callable[[Launch], Any]


def problem(op: str, dim: int, dtype: torch.dtype, device: torch.device, heads: int, side: int) -> tuple[Run, Tensor]:
    """An op on random inputs as a function of its launch, and what its first result should be."""
    from sam_edge.kernels.rel_pos_attention import triton_kernel as global_kernel
    from sam_edge.kernels.window_attention import triton_kernel as window_kernel

    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype, generator=generator)

    if op == "window_attention":
        bias = tuple(0.3 * random(27, dim) for _ in range(2))
        window = random(1, side, side, 3 * heads * dim), random(3 * heads * dim), bias, 14, heads, False
        exact = window_reference.window_attention(window[0].float(), window[1].float(),
                                                  tuple(x.float() for x in bias), 14, heads)  # fmt: skip
        return lambda launch: window_kernel.forward(*window, launch), exact
    query, key, value = (random(1, heads, side * side, dim) for _ in range(3))
    table_h, table_w = (0.3 * random(2 * side - 1, dim) for _ in range(2))
    given = query, key, value, table_h, table_w
    if op == "rel_pos_attention":
        exact = global_reference.rel_pos_attention(*(x.float() for x in given))
        return lambda launch: global_kernel.forward(*given, launch)[0].transpose(1, 2), exact
    first = CANDIDATES["rel_pos_attention", 8 * dtype.itemsize][0]
    out, logsumexp = global_kernel.forward(*given, first)
    grad = random(*out.shape)
    wide = [x.float().requires_grad_() for x in given]
    exact = torch.autograd.grad(global_reference.rel_pos_attention(*wide), wide[2], grad.transpose(1, 2).float())[0]
    return lambda launch: global_kernel.backward(grad, *given, out, logsumexp, launch)[2].transpose(1, 2), exact


def fastest(
    op: str, run: Run, exact: Tensor, dtype: torch.dtype, time_ms: Callable[[Callable[[], Any]], float]
) -> tuple[float, Launch]:
    """The candidate with the lowest time among those that are right; what cannot be launched is left out."""
    found: list[tuple[float, Launch]] = []
    for launch in CANDIDATES[op, 8 * dtype.itemsize]:
        try:
            error = float((run(launch).float() - exact).abs().max() / exact.abs().max())
        except Exception as failure:  # too much shared memory for this GPU, above all
            print(f"# {launch}: {type(failure).__name__}", file=sys.stderr)
            continue
        if not error <= MAX_ERROR[dtype]:
            print(f"# {launch}: wrong by {error:.1e} of the largest value", file=sys.stderr)
            continue
        found.append((time_ms(lambda launch=launch: run(launch)), launch))  # type: ignore[misc]
    if not found:
        raise SystemExit(f"error: no candidate of {op} is right on this GPU. Report it with the lines above.")
    return min(found, key=lambda pair: pair[0])


def _time_ms(run: Callable[[], Any]) -> float:
    """The median of single calls between two CUDA events."""
    run()
    samples: list[float] = []
    for _ in range(SAMPLES):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        run()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end))
    return median(samples)


@click.command(epilog="Example: python -m sam_edge.kernels.tune --op window_attention")
@click.option("--op", type=click.Choice(sorted({op for op, _ in CANDIDATES})), help="Only this one.")
def main(op: str | None) -> None:
    """Print the fastest launch of each op and head width, as rows of LAUNCHES in kernels/launch.py."""
    if not torch.cuda.is_available() or not has_triton() or interpreted():
        print("error: tuning needs an NVIDIA GPU that torch sees, Triton, and TRITON_INTERPRET unset.", file=sys.stderr)
        raise SystemExit(1)
    device = torch.device("cuda", 0)
    generation = generation_of(device) or "NEW"
    print(f"# {torch.cuda.get_device_name(device)}, compute capability {torch.cuda.get_device_capability(device)}")
    for name, bits in CANDIDATES:
        if op not in (None, name):
            continue
        dtype = torch.bfloat16 if bits == 16 else torch.float32
        row = {}
        for dim, (heads, side) in SHAPES.items():
            milliseconds, row[dim] = fastest(name, *problem(name, dim, dtype, device, heads, side), dtype, _time_ms)
            print(f"# {name}, {bits} bits, head width {dim}: {milliseconds:.3f} ms", file=sys.stderr)
        cells = ", ".join(
            f"{dim}: Launch({x.block_m}, {x.block_n}, {x.num_warps}, {x.num_stages})" for dim, x in row.items()
        )
        print(f'    ("{name}", "{generation}", {bits}): {{{cells}}},', flush=True)


if __name__ == "__main__":
    main()
