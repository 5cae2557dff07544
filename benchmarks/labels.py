"""The names of rows in charts: as short as tells them apart, and where nothing else is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sam_edge.benchmarks.records import Record

__all__ = ["CHARACTER", "LINE", "MOST_NAMED", "Labels", "Place", "apart", "beside"]

CHARACTER, LINE = 7.2, 14.0  # of a name
MOST_NAMED = 16  # in one chart
MARK, GAP = 7.0, 10.0  # from a point's middle to its edge, and to its name
AWAY = (0, 15, -15, 30, -30, 45, -45, 60, -60)  # how far up or down a name may stand, the nearest first


@dataclass(frozen=True)
class Labels:
    """Short names of rows: only what tells them apart."""

    names: dict[str, str]

    @staticmethod
    def of(records: Sequence[Record]) -> Labels:
        parts = {r["configuration"]["name"]: _parts(r) for r in records}
        columns = list(zip(*parts.values(), strict=True))
        varying = [i for i, column in enumerate(columns) if len(set(column)) > 1] or [1]
        short = {name: " ".join(p for i in varying if (p := part[i])) for name, part in parts.items()}
        unique = len(set(short.values())) == len(short)
        return Labels(short if unique else {name: name for name in parts})

    def __call__(self, record: Record) -> str:
        name: str = record["configuration"]["name"]
        return self.names.get(name, name)


def _parts(record: Record) -> tuple[str, ...]:
    configuration = record["configuration"]
    side = record.get("image_size_px") or configuration.get("size_px")
    size = f"{side} px" if side else ""
    threads = configuration["threads"]
    count = "any threads" if not threads else f"{threads} thread{'s' * (threads > 1)}"
    return configuration["model"], configuration["runtime"], configuration["precision"], size, count


@dataclass(frozen=True)
class Place:
    """One line of text, or a mark, from `left` to `right` at the height `y`; text begins or ends at `x`."""

    left: float
    right: float
    y: float
    x: float = 0.0
    anchor: str = "start"

    def overlaps(self, other: Place) -> bool:
        return self.left < other.right and self.right > other.left and abs(self.y - other.y) < LINE


def beside(points: Sequence[tuple[float, float]], names: Sequence[str], width: float) -> list[Place]:
    """Of each point's (x, y) name: beside it, or as near as no point and no other name is in the way."""
    taken = [Place(x - MARK, x + MARK, y) for x, y in points]
    found = []
    for point, name in zip(points, names, strict=True):
        options = list(_around(point, CHARACTER * len(name), width))
        free = (option for option in options if not any(option.overlaps(other) for other in taken))
        place = next(free, options[0])
        taken.append(place)
        found.append(place)
    return found


def _around(point: tuple[float, float], wide: float, width: float) -> Iterator[Place]:
    """To the right or left of a point, level with it and farther and farther away; at last over the chart's edge."""
    x, y = point
    for away in AWAY:
        right = Place(x + GAP, x + GAP + wide, y + away, x + GAP)
        left = Place(x - GAP - wide, x - GAP, y + away, x - GAP, "end")
        yield from (place for place in (right, left) if place.left > 0 and place.right < width)
    yield Place(x + GAP, x + GAP + wide, y, x + GAP)


def apart(heights: Sequence[float], bottom: float) -> list[float]:
    """The same heights, moved so that each is a line from the next and none is below the bottom."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    found = list(heights)
    free = -math.inf
    for i in order:
        found[i] = max(found[i], free)
        free = found[i] + LINE
    free = bottom
    for i in reversed(order):
        found[i] = min(found[i], free)
        free = found[i] - LINE
    return found
