"""Accuracy-aware quantization: find the few units that must stay float, by what quantizing them does to masks.

The search knows no format: `measure(float_units)` quantizes with those units kept float and says what became of the
masks. Groups of units (the blocks of a network) are kept float one at a time; then those whose masks came closest to
the float model's are kept together, one more each time, until every prompt kind retains what it must.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Measured", "SearchResult", "groups_of", "search"]


@dataclass(frozen=True)
class Measured:
    """By prompt kind: `retention` of ground-truth mIoU, which must reach the goal, and mean `mask_iou` with the float
    model, which is less noisy and so decides what is tried first."""

    retention: Mapping[str, float]
    mask_iou: Mapping[str, float]

    def reached(self, goal: float) -> bool:
        return bool(self.retention) and all(value >= goal for value in self.retention.values())

    @property
    def closeness(self) -> float:
        return sum(self.mask_iou.values()) / max(len(self.mask_iou), 1)

    def to_dict(self) -> dict[str, Any]:
        pairs = (("retention", self.retention), ("mask_iou", self.mask_iou))
        return {name: {kind: round(value, 5) for kind, value in values.items()} for name, values in pairs}


Measure = Callable[[frozenset[str]], Measured]


@dataclass
class SearchResult:
    """`float_units` in the order in which they were chosen; `measured` with them kept; `reached` whether they suffice.

    `gains`: group -> by how much keeping it alone float brought the masks closer; `steps`: what was kept, and measured.
    """

    float_units: tuple[str, ...]
    measured: Measured
    reached: bool
    gains: dict[str, float] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def why(self) -> dict[str, Any]:
        """Plain data for the recipe's `why`."""
        gains = {name: round(gain, 5) for name, gain in self.gains.items()}
        return {"mask_iou_gained_by_keeping_float": gains, "steps": self.steps, "reached": self.reached}


def groups_of(units: Sequence[str], depth: int = 4) -> dict[str, tuple[str, ...]]:
    """Units by the first `depth` parts of their names: all of a block together."""
    groups: dict[str, tuple[str, ...]] = {}
    for unit in units:
        key = ".".join(unit.split(".")[:depth])
        groups[key] = (*groups.get(key, ()), unit)
    return groups


def search(
    groups: Mapping[str, Sequence[str]],
    measure: Measure,
    goal: float,
    *,
    most_groups: int = 6,
    on_measured: Callable[[int, int], None] = lambda done, most: None,
) -> SearchResult:
    """Keep groups float, the most sensitive first, until each kind retains at least `goal` or `most_groups` are kept.

    Costs at most 1 + len(groups) + 2 * most_groups measurements, and 1 where nothing needs to stay float. Groups that
    turn out not to be needed are taken out again at the end.
    """
    counted = _Counted(groups, measure, 1 + len(groups) + 2 * most_groups, on_measured)
    found = counted(())
    steps = [{"float": [], **found.to_dict()}]
    if found.reached(goal):
        return SearchResult((), found, True, {}, steps)
    alone = {name: counted((name,)) for name in groups}
    gains = {name: each.closeness - found.closeness for name, each in alone.items()}
    kept: list[str] = []
    for name in sorted(gains, key=lambda name: -gains[name])[:most_groups]:
        kept.append(name)
        found = alone[name] if len(kept) == 1 else counted(kept)
        steps.append({"float": list(kept), **found.to_dict()})
        if found.reached(goal):
            break
    if found.reached(goal):
        for name in kept[-2::-1]:
            fewer = [other for other in kept if other != name]
            if (trial := counted(fewer)).reached(goal):
                kept, found = fewer, trial
                steps.append({"float": list(kept), **found.to_dict()})
    chosen = tuple(unit for name in kept for unit in groups[name])
    return SearchResult(chosen, found, found.reached(goal), gains, steps)


class _Counted:
    """`measure` by groups, telling how many measurements of how many are done."""

    def __init__(
        self,
        groups: Mapping[str, Sequence[str]],
        measure: Measure,
        most: int,
        on_measured: Callable[[int, int], None],
    ) -> None:
        self.groups, self.measure, self.most, self.on_measured = groups, measure, most, on_measured
        self.done = 0

    def __call__(self, names: Sequence[str]) -> Measured:
        found = self.measure(frozenset(unit for name in names for unit in self.groups[name]))
        self.done += 1
        self.on_measured(self.done, self.most)
        return found
