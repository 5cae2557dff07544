"""What the kernel benchmark runs: shapes of SAM and MobileSAM, every variant of each op, and the floor of each.

A floor is what no implementation can undercut: the arithmetic of the result at the measured matrix rate, or its inputs
and outputs moved once at the measured copy bandwidth, whichever takes longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_edge.kernels import full_size_masks, mask_statistics, rel_pos_attention, window_attention
from sam_edge.kernels.mask_statistics import reference as mask_reference
from sam_edge.kernels.rel_pos_attention import baselines as global_baselines
from sam_edge.kernels.rel_pos_attention import reference as global_reference
from sam_edge.kernels.window_attention import baselines as window_baselines
from sam_edge.kernels.window_attention import reference as window_reference

__all__ = ["Case", "EncoderCase", "Variant", "all_cases", "global_case", "mask_case", "window_case"]

HEADS = {"vit_b": (12, 64), "vit_l": (16, 64), "vit_h": (16, 80)}  # number of heads, and their width
TINYVIT_STAGES = {"vit_t stage 2": (128, 4, 32, 7), "vit_t stage 3": (64, 5, 32, 14)}  # map, heads, width, window
PLAIN = "plain attention"  # without any bias: not the same result, but what FlashAttention needs for this shape


@dataclass(frozen=True)
class Variant:
    """run(*inputs) -> a tensor, or several; compiled: measured under torch.compile; comparable: the same result."""

    run: Callable[..., Any]
    compiled: bool = False
    comparable: bool = True


@dataclass(frozen=True)
class Case:
    """One op on one shape. inputs(device, dtype); exact(*inputs) in float32; flops and bytes are the floor's."""

    op: str
    shape: str
    batch: int
    inputs: Callable[[torch.device, torch.dtype], tuple[Any, ...]]
    exact: Callable[..., Any]
    flops: float
    bytes: float
    variants: dict[str, Variant] = field(default_factory=dict)


@dataclass(frozen=True)
class EncoderCase:
    """An image encoder end to end; `shape` is its model's name."""

    shape: str
    batch: int
    op: str = "encoder"


def global_case(
    shape: str, heads: int, dim: int, grid: tuple[int, int] = (64, 64), batch: int = 1, backward: bool = False
) -> Case:
    """Global attention; `backward`: with its gradients. Floor: 4 * tokens^2 * dim operations a head, 14 with those."""
    height, width = grid
    tokens = height * width

    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator(device).manual_seed(0)
        qkv = torch.randn(batch, tokens, 3, heads, dim, device=device, dtype=dtype, generator=generator)
        h, w = (torch.randn(2 * size - 1, dim, device=device, dtype=dtype, generator=generator) for size in grid)
        return tuple(x.requires_grad_(backward) for x in (*qkv.permute(2, 0, 3, 1, 4), 0.3 * h, 0.3 * w))

    def of(run: Callable[..., Tensor]) -> Callable[..., Any]:
        return _with_gradients(run) if backward else run

    plain = lambda query, key, value, *_: F.scaled_dot_product_attention(query, key, value)  # noqa: E731
    variants = {"triton": Variant(of(rel_pos_attention))}
    variants |= _and_compiled({name: of(run) for name, run in global_baselines.BASELINES.items()})
    if not backward:
        variants[PLAIN] = Variant(plain, comparable=False)
    return Case(
        op="global attention" + " and gradients" * backward,
        shape=f"{shape}, {height} x {width}",
        batch=batch,
        inputs=inputs,
        exact=of(global_reference.rel_pos_attention),
        flops=(14 if backward else 4) * batch * heads * tokens**2 * dim,
        bytes=(8 if backward else 4) * batch * heads * tokens * dim * 2,
        variants=variants,
    )


def window_case(
    shape: str, heads: int, dim: int, window: int = 14, grid: tuple[int, int] = (64, 64), batch: int = 1,
    learned: bool = False,
) -> Case:  # fmt: skip
    """Windowed attention from the map of qkv; `learned`: TinyViT's. A query meets window^2 keys."""
    tokens = grid[0] * grid[1]

    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
        generator = torch.Generator(device).manual_seed(0)

        def random(*size: int) -> Tensor:
            return torch.randn(size, device=device, dtype=dtype, generator=generator)

        bias = (random(heads, window**2),) if learned else tuple(0.3 * random(2 * window - 1, dim) for _ in range(2))
        channels = 3 * heads * dim
        return random(batch, *grid, channels), random(channels), bias, window, heads, learned

    baselines = {
        name: run
        for name, run in window_baselines.BASELINES.items()
        if not (learned and name in window_baselines.TABLES_ONLY)
    }
    return Case(
        op="windowed attention",
        shape=f"{shape}, {window} x {window} of {grid[0]} x {grid[1]}",
        batch=batch,
        inputs=inputs,
        exact=window_reference.window_attention,
        flops=4 * batch * heads * tokens * window**2 * dim,
        bytes=4 * batch * heads * tokens * dim * 2,
        variants={"triton": Variant(window_attention)} | _and_compiled(baselines),
    )


def mask_case(num_masks: int = 192, cells: int = 256, photo: tuple[int, int] = (1536, 2048)) -> Case:
    """Area, stability and box of masks of one decoder call, and a tenth of them at full size."""
    side = 4 * cells
    scale = side / max(photo)
    sizes = side, (round(photo[0] * scale), round(photo[1] * scale)), photo
    survivors = max(1, num_masks // 10)

    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor]:
        """Blobs that cover a few percent of the photo, as objects do; always float32."""
        generator = torch.Generator("cpu").manual_seed(0)
        coarse = torch.randn(num_masks, 1, 8, 8, generator=generator) * 6 - 9
        return (F.interpolate(coarse.to(device), (cells, cells), mode="bicubic").squeeze(1),)

    def fused(low_res: Tensor) -> tuple[Tensor, Tensor]:
        return mask_statistics(low_res, *sizes).areas, full_size_masks(low_res[:survivors], *sizes)

    def materialised(low_res: Tensor) -> tuple[Tensor, Tensor]:
        areas = torch.cat(
            [mask_reference.counts(part, *sizes, 0.0, 1.0)[:, 2] for part in torch.split(low_res, 16)]
        ).long()
        return areas, mask_reference.upscale_logits(low_res[:survivors], *sizes) > 0

    return Case(
        op="mask statistics",
        shape=f"{num_masks} masks, photo {photo[0]} x {photo[1]}",
        batch=num_masks,
        inputs=inputs,
        exact=materialised,
        flops=0.0,
        bytes=4.0 * num_masks * cells**2 + survivors * photo[0] * photo[1],
        variants={"triton": Variant(fused)} | _and_compiled({"eager": materialised}),
    )


def all_cases() -> Iterator[Case | EncoderCase]:
    """The whole benchmark, the most telling first: a run that is cut short has them."""
    for batch in (1, 8):
        for name, (heads, dim) in HEADS.items():
            yield global_case(name, heads, dim, batch=batch)
            yield window_case(name, heads, dim, batch=batch)
        for name in HEADS:
            yield EncoderCase(name, batch)
    yield mask_case()
    for name, (side, heads, dim, window) in TINYVIT_STAGES.items():
        yield window_case(name, heads, dim, window, (side, side), learned=True)
    yield global_case("vit_b", *HEADS["vit_b"], grid=(32, 32), batch=8)
    yield global_case("vit_b", *HEADS["vit_b"], grid=(24, 40), batch=8)
    yield global_case("vit_b", *HEADS["vit_b"], backward=True)


def _and_compiled(runs: dict[str, Callable[..., Any]]) -> dict[str, Variant]:
    """Each under torch.compile and without; FlexAttention is made for the former alone."""
    plain = {name: Variant(run) for name, run in runs.items() if name != "flex"}
    return plain | {f"{name}, compiled": Variant(run, compiled=True) for name, run in runs.items()}


def _with_gradients(run: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    def both(*inputs: Tensor) -> tuple[Tensor, ...]:
        out = run(*inputs)
        return out, *torch.autograd.grad(out, inputs, torch.ones_like(out))

    return both
