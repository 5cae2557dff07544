"""Two runs of the same matrix: what became faster or slower, and what is this machine's noise.

A stage's ratio is NEW's median over rounds divided by OLD's, with a 95 % bootstrap interval over the rounds of both.
It counts where that interval lies beyond the machine's own change and the ratio outside the noise, the widest of
- the interval of the null comparison in either run (one configuration against itself, round by round),
- how much faster or slower a matrix product, which knows nothing of our code, ran in NEW,
- 3 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_edge.benchmarks.records import MEASURED, Record
from sam_edge.errors import require

__all__ = ["Change", "Comparison", "compare", "machine_differences", "median_interval", "ratio_interval"]

LEAST_NOISE = 0.03
RESAMPLES = 2000
MIN_ROUNDS = 3
STAGES = ("encode", "click", "end_to_end")
IOU_LOSS, MIOU_LOSS_PERCENT = 0.005, 0.5  # masks that are worse by more are a regression

Interval = tuple[float, float]


@dataclass(frozen=True)
class Change:
    """One stage of one row. `verdict`: faster, slower, within noise, or too few rounds."""

    row: str
    stage: str
    old_ms: float
    new_ms: float
    ratio: float
    low: float
    high: float
    noise_low: float
    noise_high: float
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in vars(self).items()}


@dataclass(frozen=True)
class Comparison:
    """`masks`: row -> how its masks became worse. `notes`: what a reader must know first."""

    changes: tuple[Change, ...]
    masks: dict[str, str]
    notes: tuple[str, ...]

    @property
    def regressions(self) -> tuple[str, ...]:
        slower = [f"{change.row}, {change.stage}" for change in self.changes if change.verdict == "slower"]
        return (*slower, *(f"{row}: {why}" for row, why in self.masks.items()))


def compare(old: Sequence[Record], new: Sequence[Record]) -> Comparison:
    """Rows by their names; of several records of one name the last counts. Raises RuntimeUnavailable without SciPy."""
    before, after = ({r["configuration"]["name"]: r for r in records} for records in (old, new))
    rows = [name for name in before if name in after and "null_of" not in before[name]]
    notes = list(machine_differences(before, after))
    for only, other, which in ((before, after, "OLD"), (after, before, "NEW")):
        notes += [
            f"only {which} has the row {name}" for name in only if name not in other and "null_of" not in only[name]
        ]
    if not any("null_of" in r for r in (*before.values(), *after.values())):
        notes.append(f"neither run has a null comparison: noise is taken as {100 * LEAST_NOISE:.0f} %")
    changes, masks = [], {}
    drift = _drift(old, new)
    if not 1 / (1 + LEAST_NOISE) < drift < 1 + LEAST_NOISE:
        notes.append(f"the machine itself took {drift:.2f} times as long in NEW (a matrix product beside every row)")
    for name in rows:
        first, second = before[name], after[name]
        if first["status"] != MEASURED or second["status"] != MEASURED:
            if first["status"] != second["status"]:
                notes.append(f"{name} was {first['status']}, now {second['status']}")
            continue
        for stage in STAGES:
            noise = _widest([_null_interval(side, stage) for side in (before, after)] + [(drift, drift)])
            changes.append(_change(name, stage, first, second, noise, max(drift, 1 / drift)))
        worse = _worse_masks(first, second)
        if worse:
            masks[name] = worse
    return Comparison(tuple(changes), masks, tuple(notes))


def machine_differences(old: dict[str, Record], new: dict[str, Record]) -> list[str]:
    """Warnings that name what differs between the machines of two runs."""
    if not old or not new:
        return []
    first, second = (next(iter(side.values()))["machine"] for side in (old, new))
    found = []
    hardware = [
        f"{field.replace('_', ' ')} {first.get(field)} against {second.get(field)}"
        for field in ("cpu", "cpu_flags", "cores_visible", "affinity", "memory_total_bytes", "system")
        if first.get(field) != second.get(field)
    ]
    if hardware:
        found.append(f"the runs are of different machines: {'; '.join(hardware)}. Ratios say nothing of the code")
    libraries = [first.get("libraries", {}), second.get("libraries", {})]
    versions = [
        f"{name} {libraries[0].get(name, 'none')} against {libraries[1].get(name, 'none')}"
        for name in sorted({*libraries[0], *libraries[1]})
        if libraries[0].get(name) != libraries[1].get(name)
    ]
    versions += [
        f"{field} {first.get(field)} against {second.get(field)}"
        for field in ("python", "kernel")
        if first.get(field) != second.get(field)
    ]
    return [*found, *([f"versions differ: {', '.join(versions)}"] if versions else [])]


def ratio_interval(new: Sequence[float], old: Sequence[float]) -> tuple[float, float, float]:
    """The ratio of the medians over rounds, and its 95 % bootstrap interval, the rounds of both drawn independently."""

    def ratio(a: NDArray[np.float64], b: NDArray[np.float64], axis: int = -1) -> Any:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    return float(ratio(np.asarray(new), np.asarray(old))), *_bootstrap((new, old), ratio)


def median_interval(values: Sequence[float]) -> Interval:
    """95 % bootstrap interval of the median of one value a round."""
    return _bootstrap((values,), lambda x, axis=-1: np.median(x, axis=axis))


def _bootstrap(samples: tuple[Sequence[float], ...], statistic: Callable[..., Any]) -> Interval:
    stats = require("scipy.stats", extra="bench")
    found = stats.bootstrap(
        tuple(np.asarray(sample, np.float64) for sample in samples),
        statistic,
        n_resamples=RESAMPLES,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def _change(name: str, stage: str, old: Record, new: Record, noise: Interval, shift: float) -> Change:
    rounds = [record["stages"][stage]["round_p50_ms"] for record in (old, new)]
    before, after = (float(np.median(part)) for part in rounds)
    if min(len(part) for part in rounds) < MIN_ROUNDS:
        ratio = after / before
        return Change(name, stage, before, after, ratio, ratio, ratio, *noise, "too few rounds")
    ratio, low, high = ratio_interval(rounds[1], rounds[0])
    verdict = _verdict(ratio, low, high, noise, shift)
    return Change(name, stage, before, after, ratio, low, high, *noise, verdict)


def _verdict(ratio: float, low: float, high: float, noise: Interval, shift: float) -> str:
    """Is it surely more than the machine's own `shift`, and larger than one configuration's difference from itself?"""
    if low > shift and ratio > noise[1]:
        return "slower"
    return "faster" if high < 1 / shift and ratio < noise[0] else "within noise"


def _null_interval(side: dict[str, Record], stage: str) -> Interval | None:
    """Of the ratios of one configuration with itself, round by round; None where the run has no such pair."""
    again = next((record for record in side.values() if "null_of" in record), None)
    first = side.get(again["null_of"]) if again is not None else None
    if again is None or first is None or "stages" not in again or "stages" not in first:
        return None
    pairs = zip(again["stages"][stage]["round_p50_ms"], first["stages"][stage]["round_p50_ms"], strict=False)
    ratios = [a / b for a, b in pairs]
    if len(ratios) < MIN_ROUNDS:
        return None
    return median_interval(ratios)


def _drift(old: Sequence[Record], new: Sequence[Record]) -> float:
    """How much slower the machine itself was in NEW: it moves every ratio, whatever the code does."""
    before, after = ([x for record in run for x in record.get("yardstick_ms", ())] for run in (old, new))
    return float(np.median(after) / np.median(before)) if before and after else 1.0


def _widest(intervals: Sequence[Interval | None]) -> Interval:
    """Around 1, the same to both sides as a factor: which of two equal things is called the new one is arbitrary."""
    farthest = max(max(high, 1 / low) for low, high in (i for i in intervals if i is not None)) if any(intervals) else 1
    noise = max(farthest, 1 + LEAST_NOISE)
    return 1 / noise, noise


def _worse_masks(old: Record, new: Record) -> str:
    """In which prompt kinds the masks are worse than before, "" for none. Deterministic, so no noise is asked for."""
    found = []
    before, after = (record.get("quality", {}).get("kinds", {}) for record in (old, new))
    for kind in before.keys() & after.keys():
        for figure, loss, form in (("mask_iou_mean", IOU_LOSS, ".4f"), ("miou_percent", MIOU_LOSS_PERCENT, ".1f")):
            first, second = before[kind].get(figure), after[kind].get(figure)
            if first is not None and second is not None and second < first - loss:
                found.append(f"{kind} {figure} {first:{form}} to {second:{form}}")
    return "; ".join(sorted(found))
