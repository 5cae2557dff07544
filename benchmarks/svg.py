"""Charts as plain data: shapes with attributes, which the page's template writes as SVG, escaped. Axes and ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Chart", "Scale", "Shape", "linear_ticks", "log_ticks", "shown"]


@dataclass(frozen=True)
class Shape:
    """An SVG element; `title` is what a pointer that rests on it shows."""

    tag: str
    attributes: dict[str, Any]
    text: str = ""
    title: str = ""


@dataclass
class Chart:
    """`label` is what a screen reader says."""

    width: float
    height: float
    label: str
    shapes: list[Shape] = field(default_factory=list)

    def add(self, tag: str, *, text: str = "", title: str = "", **attributes: Any) -> None:
        """Attribute names as in SVG, with "_" for "-" and `cls` for `class`."""
        named = {("class" if name == "cls" else name.replace("_", "-")): _short(v) for name, v in attributes.items()}
        self.shapes.append(Shape(tag, named, text, title))

    def text(self, x: float, y: float, text: str, cls: str = "", anchor: str = "start") -> None:
        self.add("text", x=x, y=y, cls=cls, text_anchor=anchor, text=text)

    def line(self, x1: float, y1: float, x2: float, y2: float, cls: str) -> None:
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, cls=cls)


@dataclass(frozen=True)
class Scale:
    """Values `low` to `high` on pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (self.end - self.start) * ((at - low) / (high - low) if high > low else 0.5)


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values within low to high."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 ... within low to high; powers of ten alone over many decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if len(decades) > 4 else (1, 2, 5)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    found = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    return found if len(found) > 2 else linear_ticks(low, high)


def shown(value: float) -> str:
    """Three digits that matter: 0.0123, 1.23, 12.3, 123, 1,230."""
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, min(digits, 4))}f}"


def tick_text(value: float) -> str:
    return f"{value:,.6g}"


def _short(value: Any) -> Any:
    return round(value, 2) if isinstance(value, float) else value


def padded(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """The range of the values with some room, never empty."""
    low, high = min(values), max(values)
    room = share * (high - low) or abs(high) * 0.05 or 1.0
    return low - room, high + room
