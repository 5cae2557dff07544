"""torch's own profiler, and its int8 product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sam_edge.benchmarks.profiles import Op, example_feeds

__all__ = ["int8_product", "profile_torch"]


def int8_product(side: int, threads: int) -> Callable[[], Any] | None:
    """A call that multiplies two (side, side) int8 matrices, or None without torch."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    matrix = torch.randint(-127, 127, (side, side), dtype=torch.int8)
    other = matrix.t().contiguous().t()
    try:
        torch._int_mm(matrix, other)
    except (RuntimeError, AttributeError):  # no such kernel on this CPU
        return None
    return lambda: torch._int_mm(matrix, other)


def profile_torch(job: dict[str, Any], runs: int) -> dict[str, list[Op]]:
    """Graph -> the operators' own time in `runs` runs, by torch.profiler. Raises CheckpointError."""
    import torch

    from sam_edge.model.checkpoints import load_model

    model = load_model(job["path"], image_size=job["size_px"] or None).eval()
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    image, click = example_feeds(model.spec)
    prompts = [
        torch.from_numpy(array)
        for array in (click.point_coords, click.point_labels, click.mask_input, click.has_mask_input)
    ]
    with torch.inference_mode():
        features = tuple(model.encode(torch.from_numpy(image)))
        return {
            "encoder": _profiled(lambda: model.encode(torch.from_numpy(image)), runs),
            "decoder": _profiled(lambda: model.decode(features, *prompts), runs),
        }


def _profiled(call: Callable[[], Any], runs: int) -> list[Op]:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    call()
    with torch_profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiler:
        for _ in range(runs):
            call()
    # What the model calls, with all that each call does inside; torch counts operations by its own formulas, and bytes
    # are not known, since it does not say the outputs' shapes.
    return [
        Op(event.name.removeprefix("aten::"), event.cpu_time_total / 1e3, _operations(event))
        for event in profiler.events()
        if event.cpu_parent is None and event.cpu_time_total > 0
    ]


def _operations(event: Any) -> float:
    own = float(event.flops or 0)
    return own or sum(_operations(child) for child in event.cpu_children)
