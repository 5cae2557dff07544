"""Two runs of the same matrix: what became faster or slower, and what is this machine's noise.

Beside every stage a yardstick ran that knows nothing of our code. A stage's value in a round is its median over the
yardstick's, so that a machine that was slower then is taken out; its ratio is NEW's middle over rounds (the mean
without the fifth at either end) divided by OLD's, with a 95 % bootstrap interval over the rounds of both. It counts
where that interval leaves 1 and the ratio lies outside the noise: the wider of 3 % and the interval of the null
comparison (one configuration against itself, round by round, in both runs).

What was not measured on the same is not judged, and a note says so: masks on other photos, their IoU with another
reference, and the stages that take the photo itself where it had another size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sam_edge.benchmarks.intervals import MIN_ROUNDS, Interval, middle_interval, ratio_interval
from sam_edge.benchmarks.records import MEASURED, Record

__all__ = ["Change", "Comparison", "compare", "machine_differences"]

LEAST_NOISE = 0.03
STAGES = ("encode", "click", "end_to_end")
PHOTO_STAGES = ("click", "end_to_end")  # their time depends on the photo's size
OTHER_PHOTO = "other photo"
REFERENCE_FIGURE = "mask_iou_mean"  # of the masks' figures the one that needs the reference
LOSSES = {REFERENCE_FIGURE: (0.005, ".4f"), "miou_percent": (0.5, ".1f")}  # masks worse by more are a regression
MOST_NAMED = 3  # rows in a note

WITHOUT_YARDSTICK = "a run has no yardstick beside its stages: what the machine itself changed stays in the ratios"


@dataclass(frozen=True)
class Change:
    """One stage of one row. `ratio` is between the yardsticks, where both runs have them, unlike the milliseconds.

    `verdict`: faster, slower, within noise, too few rounds, or other photo.
    """

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
    beside = _have_yardsticks(before) and _have_yardsticks(after)
    notes += _drift(before, after) if beside else [WITHOUT_YARDSTICK]
    runs = _Run(before, beside), _Run(after, beside)
    changes: list[Change] = []
    masks: dict[str, str] = {}
    unlike: dict[str, list[str]] = {}  # what was not measured on the same, and in which rows
    for name in rows:
        first, second = before[name], after[name]
        if first["status"] != MEASURED or second["status"] != MEASURED:
            if first["status"] != second["status"]:
                notes.append(f"{name} was {first['status']}, now {second['status']}")
            continue
        apart = _Unlike.of(first, second)
        for why in apart.reasons:
            unlike.setdefault(why, []).append(name)
        measured = [_change(name, stage, *runs) for stage in STAGES]
        changes += [replace(c, verdict=OTHER_PHOTO) if c.stage in apart.stages else c for c in measured]
        worse = _worse_masks(first, second, apart.figures)
        if worse:
            masks[name] = worse
    notes += [f"{why} ({_listed(names)})" for why, names in unlike.items()]
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


@dataclass(frozen=True)
class _Run:
    """Records by their names; with `beside`, a stage's rounds are multiples of the yardstick's."""

    records: dict[str, Record]
    beside: bool

    def p50_ms(self, name: str, stage: str) -> float:
        return float(np.median(self.records[name]["stages"][stage]["round_p50_ms"]))

    def rounds(self, name: str, stage: str) -> list[float]:
        found = self.records[name]["stages"][stage]
        if not self.beside:
            return list(found["round_p50_ms"])
        return [ms / mark for ms, mark in zip(found["round_p50_ms"], found["round_yardstick_ms"], strict=True)]

    def null_ratios(self, stage: str) -> list[float]:
        """Of one configuration to itself, round by round; empty where the run has no such pair."""
        again = next((name for name, record in self.records.items() if "null_of" in record), "")
        first = self.records[again]["null_of"] if again else ""
        if not all("stages" in self.records.get(name, {}) for name in (again, first)):
            return []
        pairs = zip(self.rounds(again, stage), self.rounds(first, stage), strict=False)
        return [a / b for a, b in pairs]


def _change(name: str, stage: str, old: _Run, new: _Run) -> Change:
    noise = _noise(old.null_ratios(stage) + new.null_ratios(stage))
    times = old.p50_ms(name, stage), new.p50_ms(name, stage)
    before, after = (run.rounds(name, stage) for run in (old, new))
    if min(len(before), len(after)) < MIN_ROUNDS:
        ratio = float(np.median(after) / np.median(before))
        return Change(name, stage, *times, ratio, ratio, ratio, *noise, "too few rounds")
    ratio, low, high = ratio_interval(after, before)
    verdict = "within noise"
    if low > 1 and ratio > noise[1]:
        verdict = "slower"
    elif high < 1 and ratio < noise[0]:
        verdict = "faster"
    return Change(name, stage, *times, ratio, low, high, *noise, verdict)


def _noise(null_ratios: list[float]) -> Interval:
    """The same to both sides as a factor: which of two equal things is called the new one is arbitrary."""
    low, high = middle_interval(null_ratios) if len(null_ratios) >= MIN_ROUNDS else (1.0, 1.0)
    noise = max(1 + LEAST_NOISE, high, 1 / low)
    return 1 / noise, noise


def _stages(side: dict[str, Record]) -> list[dict[str, Any]]:
    """All measured stages of all rows."""
    return [record["stages"][stage] for record in side.values() if "stages" in record for stage in STAGES]


def _have_yardsticks(side: dict[str, Record]) -> bool:
    return all("round_yardstick_ms" in stage for stage in _stages(side))


def _drift(old: dict[str, Record], new: dict[str, Record]) -> list[str]:
    """A note where the machine itself was slower or faster in NEW."""

    def yardstick_ms(side: dict[str, Record]) -> float:
        return float(np.median([ms for stage in _stages(side) for ms in stage["round_yardstick_ms"]] or [1.0]))

    change = yardstick_ms(new) / yardstick_ms(old)
    if 1 / (1 + LEAST_NOISE) < change < 1 + LEAST_NOISE:
        return []
    return [f"the machine itself took {change:.2f} times as long in NEW, by its yardstick: the ratios are without that"]


@dataclass(frozen=True)
class _Unlike:
    """What a row's two records did not measure on the same: `stages` and the masks' `figures` that are not judged."""

    stages: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @staticmethod
    def of(old: Record, new: Record) -> _Unlike:
        photo, masks = _other_photo(old, new), _other_masks(old.get("quality", {}), new.get("quality", {}))
        return _Unlike(photo.stages, masks.figures, (*photo.reasons, *masks.reasons))


def _other_photo(old: Record, new: Record) -> _Unlike:
    """Of timed photos of other sizes."""
    sizes = [record.get("photo", {}) for record in (old, new)]
    if not _contradict(sizes, "width_px", "height_px"):
        return _Unlike()
    stages = STAGES if new.get("photo_input") else PHOTO_STAGES
    before, after = (f"{size.get('width_px')} x {size.get('height_px')} px" for size in sizes)
    said = f"the timed photo had {before} in OLD and {after} in NEW: {', '.join(stages)} are not judged"
    return _Unlike(stages=stages, reasons=(said,))


def _other_masks(old: Record, new: Record) -> _Unlike:
    """Of masks on other photos, or beside those of another reference; what the ground truth says needs no reference."""
    data, references = ([quality.get(part, {}) for quality in (old, new)] for part in ("data", "reference"))
    if _contradict(data, "sha256", "photos"):
        before, after = (f"{_named(each)}, {each.get('photos')} photos" for each in data)
        said = f"masks were drawn on {before}, in OLD and on {after}, in NEW: they are not judged"
        return _Unlike(figures=tuple(LOSSES), reasons=(said,))
    if _contradict(references, "name", "sha256"):
        before, after = map(_named, references)
        said = f"the reference was {before} in OLD and {after} in NEW: the masks' IoU with it is not judged"
        return _Unlike(figures=(REFERENCE_FIGURE,), reasons=(said,))
    return _Unlike()


def _contradict(pair: Sequence[dict[str, Any]], *fields: str) -> bool:
    """Whether two descriptions say different things; an older record may not say."""
    first, second = pair
    return any(field in first and field in second and first[field] != second[field] for field in fields)


def _named(what: dict[str, Any]) -> str:
    sha256 = f" (SHA-256 {what['sha256'][:7]})" if "sha256" in what else ""
    return f"{what.get('name', 'what has no name')}{sha256}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _worse_masks(old: Record, new: Record, unlike: Sequence[str]) -> str:
    """In which prompt kinds the masks are worse than before, "" for none. Deterministic, so no noise is asked for."""
    found = []
    before, after = (record.get("quality", {}).get("kinds", {}) for record in (old, new))
    for kind in before.keys() & after.keys():
        for figure, (loss, form) in LOSSES.items():
            if figure in unlike:
                continue
            first, second = before[kind].get(figure), after[kind].get(figure)
            if first is not None and second is not None and second < first - loss:
                found.append(f"{kind} {figure} {first:{form}} to {second:{form}}")
    return "; ".join(sorted(found))
