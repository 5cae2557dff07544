"""`python -m sam_edge.kernels.tune`: time every candidate on the GPU at hand and print rows for launch.py.

Each candidate is compared with the reference first; a wrong one is never printed as the fastest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import e, log2
from statistics import median

import click
import torch
from torch import Tensor

from sam_edge.kernels.launch import CANDIDATES, Launch, generation_of, has_triton, interpreted
from sam_edge.kernels.measure import device_times, largest_error
from sam_edge.kernels.rel_pos_attention import reference as global_reference
from sam_edge.kernels.window_attention import reference as window_reference

__all__ = ["fastest", "problem"]

SHAPES = {64: (12, 64), 80: (16, 64)}  # head width -> heads of ViT-B and ViT-H, side of their map
MAX_ERROR = {torch.bfloat16: 2e-2, torch.float32: 1e-5}  # of each result's largest value: see the tests
SAMPLES = 30

Run = Callable[[Launch], tuple[Tensor, ...]]
Random = Callable[..., Tensor]


def problem(
    op: str, dim: int, dtype: torch.dtype, device: torch.device, heads: int, side: int
) -> tuple[Run, tuple[Tensor, ...]]:
    """An op on random inputs as a function of its launch, and what its results should be, every one."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype, generator=generator)

    make = {
        "rel_pos_attention": _global_problem,
        "rel_pos_attention_backward": _gradients_problem,
        "window_attention": _window_problem,
    }[op]
    return make(random, dim, heads, side)


def _window_problem(random: Random, dim: int, heads: int, side: int) -> tuple[Run, tuple[Tensor, ...]]:
    from sam_edge.kernels.window_attention import triton_kernel

    bias = tuple(0.3 * random(27, dim) for _ in range(2))
    qkv, padding = random(1, side, side, 3 * heads * dim), random(3 * heads * dim)
    wide = qkv.float(), padding.float(), tuple(table.float() for table in bias)
    exact = window_reference.window_attention(*wide, 14, heads)
    return lambda launch: (triton_kernel.forward(qkv, padding, bias, 14, heads, False, launch),), (exact,)


def _global_problem(random: Random, dim: int, heads: int, side: int) -> tuple[Run, tuple[Tensor, ...]]:
    from sam_edge.kernels.rel_pos_attention import triton_kernel

    given = _global_inputs(random, dim, heads, side)
    query, key, value, *tables = (x.float() for x in given)
    logits = _logits(query, key, *global_reference.relative_position_terms(query, *tables))
    out = (logits.softmax(3) @ value).transpose(1, 2)
    return lambda launch: triton_kernel.forward(*given, launch), (out, log2(e) * logits.logsumexp(3).flatten(0, 1))


def _gradients_problem(random: Random, dim: int, heads: int, side: int) -> tuple[Run, tuple[Tensor, ...]]:
    from sam_edge.kernels.rel_pos_attention import triton_kernel

    given = _global_inputs(random, dim, heads, side)
    query, key, value, *tables = (x.float() for x in given)
    terms = global_reference.relative_position_terms(query, *tables)
    # The kernel does not follow the terms back to query and tables, so here they are variables of their own.
    variables = query, key, value, rows, columns = [x.detach().requires_grad_() for x in (query, key, value, *terms)]
    out = (_logits(query, key, rows, columns).softmax(3) @ value).transpose(1, 2)
    grad = random(*out.shape)
    *of_tokens, of_rows, of_columns = torch.autograd.grad(out, variables, grad.float())
    of_terms = [x.flatten(0, 1).transpose(1, 2) for x in (of_rows, of_columns)]
    exact = *(x.transpose(1, 2) for x in of_tokens), *of_terms
    ours, logsumexp = triton_kernel.forward(*given, CANDIDATES["rel_pos_attention", 8 * grad.itemsize][0])
    return lambda launch: triton_kernel.backward(grad, *given, ours, logsumexp, launch), exact


def _global_inputs(random: Random, dim: int, heads: int, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    query, key, value = (random(1, heads, side * side, dim) for _ in range(3))
    return query, key, value, 0.3 * random(2 * side - 1, dim), 0.3 * random(2 * side - 1, dim)


def _logits(query: Tensor, key: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """As in the reference, from its terms."""
    bias = (rows.unsqueeze(4) + columns.unsqueeze(3)).flatten(3)
    logits: Tensor = query @ key.transpose(2, 3) * query.shape[3] ** -0.5 + bias
    return logits


def fastest(
    op: str, run: Run, exact: tuple[Tensor, ...], dtype: torch.dtype, time_ms: Callable[[Callable[[], object]], float]
) -> tuple[float, Launch]:
    """The candidate with the lowest time among those that are right; what cannot be launched is left out."""
    found: list[tuple[float, Launch]] = []
    for launch in CANDIDATES[op, 8 * dtype.itemsize]:
        try:
            error = largest_error(run(launch), exact)
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


def _time_ms(run: Callable[[], object]) -> float:
    return median(device_times(run, SAMPLES).ms)


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
