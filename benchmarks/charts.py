"""The report's charts, from records alone. A colour is a runtime, everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sam_edge.benchmarks.labels import CHARACTER, LINE, MOST_NAMED, Labels, apart, beside
from sam_edge.benchmarks.records import Record
from sam_edge.benchmarks.svg import Chart, Scale, linear_ticks, log_ticks, padded, shown, tick_text

__all__ = [
    "PARTS",
    "accuracy",
    "distributions",
    "front",
    "ladder",
    "over_rounds",
    "stage_bars",
    "sustained",
]

PARTS = ("preprocess", "encode", "decode", "postprocess")  # what adds up to a first mask
RUNTIME_CLASSES = {"onnx": 0, "openvino": 1, "tflite": 2, "torch": 3, "coreml": 4}
ROW, BAR = 44.0, 16.0
FRONT_HEIGHT = 360.0


def colour(record: Record) -> str:
    """The class of a row's colour, which the page's style sheet has for light and dark."""
    return f"c{RUNTIME_CLASSES.get(record['configuration']['runtime'], 5)}"


def accuracy(record: Record) -> float | None:
    """What the front's height is: mIoU of `box` in percent, or without ground truth mask IoU with the reference."""
    kinds: dict[str, dict[str, Any]] = record.get("quality", {}).get("kinds", {})
    box = kinds.get("box", {})
    if "miou_percent" in box:
        return float(box["miou_percent"])
    return 100 * float(box["mask_iou_mean"]) if "mask_iou_mean" in box else None


def front(records: Sequence[Record], labels: Labels, width: float) -> Chart | None:
    """Latency against accuracy; the line joins the rows that no other beats in both."""
    points = [(r["stages"]["end_to_end"]["p50_ms"], a, r) for r in records if (a := accuracy(r)) is not None]
    if not points:
        return None
    has_truth = all("miou_percent" in r["quality"]["kinds"]["box"] for _, _, r in points)
    chart = Chart(width, FRONT_HEIGHT, "Latency against accuracy of every configuration")
    times, heights = [p[0] for p in points], [p[1] for p in points]
    x = Scale(min(times) / 1.25, max(times) * 1.6, 52, width - 12, log=True)
    low, high = padded(_at_least_two_points(heights), 0.15)
    y = Scale(low, min(high, 100.5), FRONT_HEIGHT - 46, 26)
    for tick in log_ticks(x.low, x.high):
        chart.line(x(tick), 26, x(tick), FRONT_HEIGHT - 46, "grid")
        chart.text(x(tick), FRONT_HEIGHT - 28, tick_text(tick), "tick", "middle")
    for tick in linear_ticks(y.low, y.high):
        chart.line(52, y(tick), width - 12, y(tick), "grid")
        chart.text(46, y(tick) + 4, tick_text(tick), "tick", "end")
    chart.text(
        (52 + width - 12) / 2, FRONT_HEIGHT - 8, "photo's bytes to mask, ms (median, log scale)", "axis", "middle"
    )
    chart.text(4, 14, "mIoU of box prompts, %" if has_truth else "mask IoU with the reference, %", "axis")
    best = _pareto(points)
    if len(best) > 1:
        chart.add("polyline", points=" ".join(f"{x(t):.1f},{y(a):.1f}" for t, a, _ in best), cls="front")
    places = [(x(time), y(height)) for time, height, _ in points]
    names = [labels(record) if len(points) <= MOST_NAMED else "" for _, _, record in points]
    for (time, height, record), place, name in zip(points, beside(places, names, width), names, strict=True):
        told = f"{record['configuration']['name']}: {shown(time)} ms, {height:.1f} %"
        chart.add("circle", cx=x(time), cy=y(height), r=6, cls=f"{colour(record)} mark", title=told)
        if name:
            chart.text(place.x, place.y + 4, name, "name", place.anchor)
    return chart


def _at_least_two_points(percents: Sequence[float]) -> list[float]:
    """With values around them where all lie within two percent: a chart must not make much of a tenth."""
    middle = (min(percents) + max(percents)) / 2
    return [*percents, middle - 1, middle + 1]


def _pareto(points: Sequence[tuple[float, float, Record]]) -> list[tuple[float, float, Record]]:
    """By latency: those more accurate than all that are faster."""
    best: list[tuple[float, float, Record]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def stage_bars(records: Sequence[Record], labels: Labels, width: float) -> Chart:
    """Medians of the stages that a first mask takes, one after the other."""
    totals = [sum(_p50(r, part) for part in PARTS) for r in records]
    chart = Chart(width, ROW * len(records) + 30, "Time by stage")
    x = Scale(0, max(totals) * 1.02, 0, width - 70)
    for row, (record, total) in enumerate(zip(records, totals, strict=True)):
        top = row * ROW
        chart.text(0, top + 14, labels(record), "name")
        at = 0.0
        for i, part in enumerate(PARTS):
            value = _p50(record, part)
            chart.add(
                "rect",
                x=x(at),
                y=top + 20,
                width=max(x(at + value) - x(at), 0.5),
                height=BAR,
                cls=f"s{i}",
                title=f"{labels(record)}: {part} {shown(value)} ms",
            )
            at += value
        chart.text(x(total) + 6, top + 33, f"{shown(total)} ms", "value")
    _axis(chart, x, ROW * len(records) + 2, "ms")
    return chart


def distributions(records: Sequence[Record], labels: Labels, width: float, stage: str) -> Chart:
    """Every dot is two percent of the measurements; the box holds the middle half, the line is the median."""
    shapes = [r["stages"][stage]["quantiles_ms"] for r in records]
    chart = Chart(width, ROW * len(records) + 30, f"Distribution of {stage.replace('_', ' ')}")
    ends = [record["stages"][stage]["p99_ms"] for record in records]
    x = Scale(min(s[0] for s in shapes) / 1.1, max(ends) * 1.1, 4, width - 8, log=True)
    for row, (record, quantiles) in enumerate(zip(records, shapes, strict=True)):
        top = row * ROW
        figures = record["stages"][stage]
        many = len(quantiles) - 1
        q25, q50, q75 = (quantiles[round(share * many)] for share in (0.25, 0.5, 0.75))
        told = f"{labels(record)}: p50 {shown(figures['p50_ms'])}, p90 {shown(figures['p90_ms'])} ms"
        chart.text(0, top + 14, labels(record), "name")
        chart.text(
            width - 4, top + 14, f"p50 {shown(figures['p50_ms'])}, p90 {shown(figures['p90_ms'])} ms", "value", "end"
        )
        chart.add("rect", x=x(q25), y=top + 19, width=max(x(q75) - x(q25), 1), height=18, cls="box", title=told)
        for value in quantiles:
            if value <= x.high:
                chart.add("circle", cx=x(value), cy=top + 28, r=3.2, cls=f"{colour(record)} dot")
        chart.line(x(q50), top + 17, x(q50), top + 39, "median")
    _axis(chart, x, ROW * len(records) + 2, "ms, log scale")
    return chart


def over_rounds(records: Sequence[Record], labels: Labels, width: float, stage: str = "end_to_end") -> Chart | None:
    """Each round's median as a share of the row's own: what moves all lines together is the machine."""
    lines = [(r, [m / r["stages"][stage]["p50_ms"] for m in r["stages"][stage]["round_p50_ms"]]) for r in records]
    lines = [(record, values) for record, values in lines if len(values) > 1]
    if not lines:
        return None
    points = [([float(i + 1) for i in range(len(values))], values, record) for record, values in lines]
    return _lines(points, labels, width, "round", "of the row's median", "Medians by round")


def sustained(records: Sequence[Record], labels: Labels, width: float) -> Chart | None:
    """Median of each window of the sustained scenario: a line that climbs is a machine that slows down."""
    points = []
    for record in records:
        windows = record.get("scenarios", {}).get("sustained", {}).get("windows", ())
        if len(windows) > 1:
            points.append(([w["start_s"] for w in windows], [w["p50_ms"] for w in windows], record))
    return _lines(points, labels, width, "seconds", "ms, median of the window", "Latency over time") if points else None


def ladder(records: Sequence[Record], labels: Labels, width: float) -> Chart | None:
    """Accuracy over latency along the input sides of one model, runtime and precision."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        c = record["configuration"]
        if accuracy(record) is not None:
            groups.setdefault((c["model"], c["runtime"], c["precision"], c["threads"]), []).append(record)
    groups = {key: sorted(g, key=lambda r: r["image_size_px"]) for key, g in groups.items() if len(g) > 1}
    groups = {key: group for key, group in groups.items() if len({r["image_size_px"] for r in group}) > 1}
    if not groups:
        return None
    every = [record for group in groups.values() for record in group]
    chart = Chart(width, FRONT_HEIGHT, "Accuracy and latency by input side")
    times = [r["stages"]["end_to_end"]["p50_ms"] for r in every]
    x = Scale(min(times) / 1.25, max(times) * 1.4, 52, width - 12, log=True)
    y = Scale(*padded(_at_least_two_points([accuracy(r) or 0.0 for r in every]), 0.15), FRONT_HEIGHT - 46, 26)
    for tick in log_ticks(x.low, x.high):
        chart.text(x(tick), FRONT_HEIGHT - 28, tick_text(tick), "tick", "middle")
    for tick in linear_ticks(y.low, y.high):
        chart.line(52, y(tick), width - 12, y(tick), "grid")
        chart.text(46, y(tick) + 4, tick_text(tick), "tick", "end")
    chart.text(width / 2, FRONT_HEIGHT - 8, "photo's bytes to mask, ms (median, log scale)", "axis", "middle")
    chart.text(4, 14, "accuracy of box prompts, %", "axis")
    for group in groups.values():
        places = [(x(r["stages"]["end_to_end"]["p50_ms"]), y(accuracy(r) or 0.0)) for r in group]
        chart.add(
            "polyline", points=" ".join(f"{px:.1f},{py:.1f}" for px, py in places), cls=f"{colour(group[0])} line"
        )
        for (px, py), record in zip(places, group, strict=True):
            told = f"{labels(record)}: {shown(record['stages']['end_to_end']['p50_ms'])} ms, {accuracy(record):.1f} %"
            chart.add("circle", cx=px, cy=py, r=5, cls=f"{colour(record)} mark", title=told)
            chart.text(px, py - 10, f"{record['image_size_px']} px", "name", "middle")
    return chart


def _lines(
    points: Sequence[tuple[Sequence[float], Sequence[float], Record]],
    labels: Labels,
    width: float,
    x_name: str,
    y_name: str,
    label: str,
) -> Chart:
    height = max(260.0, LINE * len(points) + 90)
    chart = Chart(width, height, label)
    names = [labels(record) for _, _, record in points] if len(points) <= MOST_NAMED else []
    right = width - 12 - max((CHARACTER * len(name) for name in names), default=0)
    x = Scale(min(p[0][0] for p in points), max(p[0][-1] for p in points), 52, right)
    y = Scale(*padded([v for _, values, _ in points for v in values]), height - 46, 26)
    for tick in linear_ticks(y.low, y.high):
        chart.line(52, y(tick), right, y(tick), "grid")
        chart.text(46, y(tick) + 4, tick_text(tick), "tick", "end")
    for tick in linear_ticks(x.low, x.high, 6):
        if x_name == "round" and tick % 1:
            continue
        chart.text(x(tick), height - 28, tick_text(tick), "tick", "middle")
    chart.text((52 + right) / 2, height - 8, x_name, "axis", "middle")
    chart.text(4, 14, y_name, "axis")
    for name, at_y, (_, _, record) in zip(
        names, apart([y(values[-1]) for _, values, _ in points], height - 46), points, strict=False
    ):
        chart.text(right + 8, at_y + 4, name, f"{colour(record)} end")
    for at, values, record in points:
        places = " ".join(f"{x(a):.1f},{y(v):.1f}" for a, v in zip(at, values, strict=True))
        chart.add("polyline", points=places, cls=f"{colour(record)} line", title=labels(record))
        for a, v in zip(at, values, strict=True):
            chart.add(
                "circle", cx=x(a), cy=y(v), r=2.5, cls=f"{colour(record)} mark", title=f"{labels(record)}: {shown(v)}"
            )
    return chart


def _axis(chart: Chart, x: Scale, top: float, unit: str) -> None:
    ticks = log_ticks(x.low, x.high) if x.log else linear_ticks(x.low, x.high)
    for tick in ticks:
        chart.line(x(tick), 0, x(tick), top, "grid under")
        chart.text(x(tick), top + 14, tick_text(tick), "tick", "middle" if x(tick) > 10 else "start")
    chart.text(chart.width, top + 27, unit, "axis", "end")


def _p50(record: Record, stage: str) -> float:
    return float(record["stages"][stage]["p50_ms"])
