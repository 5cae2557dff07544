"""What the tuner and the benchmark measure of a call: how far its results are from the reference, and its time.

Time is the GPU's alone. A small call ends before Python has launched its next kernel, and a GPU that waits for its host
is not a slow one: so it is first given something to wait on, for longer than the host takes to queue the whole call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["DeviceTimes", "device_times", "largest_error"]

SECONDS = 0.4  # of sampling one call, between MIN_SAMPLES and MAX_SAMPLES
MIN_SAMPLES, MAX_SAMPLES = 10, 200
CACHE_BYTES = 256 * 2**20  # written between calls, so that inputs come from memory and not from the second-level cache
ASSUMED_HZ = 2e9  # an H200's clock; at the 3 GHz of a desktop's GPU, twice the host's time is still 4/3 of it
FLOOR_S = 2e-4  # of waiting: the host is interrupted now and then
CEILING_S = 0.1  # of waiting: a call that itself waits for the GPU is late after any time


class DeviceTimes(NamedTuple):
    """Milliseconds of single calls; `late`: how many the host was still queueing when the GPU began on them."""

    ms: list[float]
    late: int


def largest_error(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """The worst part of a result: its largest difference as a share of its own largest value; NaN where one is NaN.

    Of masks, the number of wrong pixels as a share of those that should be set.
    """
    return float(torch.stack([_error(a, b) for a, b in zip(got, want, strict=True)]).max())  # a NaN is the largest


def _error(got: Tensor, want: Tensor) -> Tensor:
    if got.shape != want.shape:
        raise ValueError(f"a result has shape {tuple(got.shape)}, expected {tuple(want.shape)}")
    if want.dtype == torch.bool:
        return (got != want).sum() / want.sum().clamp(min=1)
    want = want.float()
    return (got.float() - want).abs().max() / want.abs().max()


def device_times(run: Callable[[], Any], most: int = MAX_SAMPLES) -> DeviceTimes:
    """What single calls of `run` take on the GPU, each with a cold second-level cache; after some that do not count."""
    run()
    wait_s = _wait_s(_queueing_s(run))
    cache = torch.empty(CACHE_BYTES, dtype=torch.uint8, device="cuda")
    samples: list[float] = []
    late = 0
    begin = time.monotonic()
    while len(samples) < MIN_SAMPLES or (time.monotonic() - begin < SECONDS and len(samples) < most):
        cache.zero_()
        ms, in_time = _sample(run, wait_s)
        if not in_time and wait_s < CEILING_S:
            wait_s *= 2
            continue
        samples.append(ms)
        late += not in_time
    return DeviceTimes(samples, late)


def _sample(run: Callable[[], Any], wait_s: float) -> tuple[float, bool]:
    """Milliseconds of a call queued behind a wait, and whether all of it was queued before the wait was over."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda._sleep(int(wait_s * ASSUMED_HZ))  # type: ignore[no-untyped-call]
    start.record()
    run()
    end.record()
    in_time = not start.query()  # type: ignore[no-untyped-call]
    end.synchronize()
    return start.elapsed_time(end), in_time


def _queueing_s(run: Callable[[], Any]) -> float:
    """The longest that the host took to queue one of three calls."""
    longest = 0.0
    for _ in range(3):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        longest = max(longest, time.perf_counter() - begin)
    return longest


def _wait_s(queueing_s: float) -> float:
    """How long the GPU waits for a call that the host queues in `queueing_s`."""
    return max(FLOOR_S, 2 * queueing_s)
