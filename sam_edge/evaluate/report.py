"""An evaluation as one JSON record and as tables that read well in a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sam_edge.evaluate.baselines import BASELINES
from sam_edge.evaluate.metrics import SIZES, mean_interval, pearson, spearman
from sam_edge.evaluate.protocol import (
    CLICK_ALTERNATIVES,
    KINDS,
    NOC_LIMIT,
    NOC_TARGETS,
    SECOND_LOOKS,
    Evaluation,
    Score,
)

__all__ = ["summarise", "tables"]

IOU_LEVELS = (0.5, 0.75, 0.9)
ROWS = (
    *KINDS[:3],
    *CLICK_ALTERNATIVES,
    *KINDS[3:],
    *SECOND_LOOKS.values(),
    *BASELINES,
)  # in the order in which they are printed


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """All figures of an evaluation as plain data: `kinds` (prompt kinds and baselines), `predicted_iou`, `noc`.

    IoU figures are percent. What was not evaluated is absent. Intervals are 95 % bootstrap intervals over photos.
    """
    found = {kind: scores for kind in ROWS if (scores := evaluation.of(kind))}
    summary: dict[str, Any] = {"kinds": {kind: _kind(scores) for kind, scores in found.items()}}
    if "box" in found and "click" in found:
        summary["predicted_iou"] = _predicted_iou(found["box"] + found["click"])
    gains = {kind: _gain(found[kind], found[again]) for kind, again in SECOND_LOOKS.items() if again in found}
    if gains:
        summary["second_look"] = gains
    if evaluation.click_counts:
        summary["noc"] = _noc(evaluation)
    return summary


def _kind(scores: Sequence[Score]) -> dict[str, Any]:
    ious = np.array([s.iou for s in scores])
    sources = sorted({s.source for s in scores})
    return {
        "baseline": scores[0].kind in BASELINES,
        **_mean_iou(scores),
        "boundary_iou_percent": _percent(np.mean([s.boundary_iou for s in scores])),
        **{f"share_at_iou_{round(100 * level)}_percent": _percent(np.mean(ious >= level)) for level in IOU_LEVELS},
        "by_size": {size: _mean_iou(part) for size in SIZES if (part := [s for s in scores if s.size == size])},
        "by_source": {source: _mean_iou([s for s in scores if s.source == source]) for source in sources},
    }


def _mean_iou(scores: Sequence[Score]) -> dict[str, Any]:
    ious = [s.iou for s in scores]
    low, high = mean_interval(ious, [s.photo for s in scores])
    return {
        "objects": len(scores),
        "miou_percent": _percent(np.mean(ious)),
        "miou_low_percent": _percent(low),
        "miou_high_percent": _percent(high),
    }


def _predicted_iou(scores: Sequence[Score]) -> dict[str, Any]:
    """How far predicted IoU is to be trusted: correlations with the true one, mean absolute error in percent."""
    true, predicted = [s.iou for s in scores], [s.predicted_iou or 0.0 for s in scores]
    figures = {
        "prompts": len(scores),
        "pearson_correlation": pearson(true, predicted),
        "spearman_correlation": spearman(true, predicted),
        "mean_absolute_error_percent": _percent(np.mean(np.abs(np.subtract(true, predicted)))),
    }
    return {name: value for name, value in figures.items() if value is not None}


def _gain(first: Sequence[Score], second: Sequence[Score]) -> dict[str, Any]:
    """What a second look adds to the mean IoU of the same objects, in points; the interval is of the differences."""
    differences = {
        size: [b.iou - a.iou for a, b in zip(first, second, strict=True) if size in (a.size, "all")]
        for size in ("all", *SIZES)
    }
    low, high = mean_interval(differences["all"], [score.photo for score in first])
    return {
        "gain_points": _percent(np.mean(differences["all"])),
        "gain_low_points": _percent(low),
        "gain_high_points": _percent(high),
        "gain_by_size_points": {size: _percent(np.mean(part)) for size, part in differences.items() if part},
    }


def _noc(evaluation: Evaluation) -> dict[str, Any]:
    """Mean clicks to each target, an object that fails counted with the limit, and the share of failures."""
    photos = [count.photo for count in evaluation.click_counts]
    figures: dict[str, Any] = {"objects": len(photos), "limit_clicks": NOC_LIMIT}
    for target in NOC_TARGETS:
        reached = [count.clicks_to.get(target) for count in evaluation.click_counts]
        clicks = [NOC_LIMIT if needed is None else needed for needed in reached]
        low, high = mean_interval(clicks, photos)
        name = f"to_iou_{round(100 * target)}"
        figures[f"{name}_clicks"] = round(float(np.mean(clicks)), 3)
        figures[f"{name}_low_clicks"], figures[f"{name}_high_clicks"] = round(low, 3), round(high, 3)
        figures[f"{name}_failed_percent"] = _percent(np.mean([needed is None for needed in reached]))
    return figures


def _percent(share: Any) -> float:
    return round(100 * float(share), 3)


def tables(summary: dict[str, Any]) -> str:
    """The figures of `summarise` as Markdown tables, aligned for reading as they are."""
    kinds: dict[str, dict[str, Any]] = summary["kinds"]
    parts = [_table(_main_rows(kinds)) if kinds else "No object of at least 100 px in these photos."]
    sources = sorted({source for kind in kinds.values() for source in kind["by_source"]})
    if len(sources) > 1:
        head = ["mIoU by source, %", *sources]
        rows = [
            [_label(name, kind), *(_miou(kind["by_source"].get(s)) for s in sources)] for name, kind in kinds.items()
        ]
        parts.append(_table([head, *rows]))
    if predicted := summary.get("predicted_iou"):
        parts.append(_predicted_line(predicted))
    for kind, gain in summary.get("second_look", {}).items():
        sizes = ", ".join(
            f"{size} {points:+.1f}" for size, points in gain["gain_by_size_points"].items() if size != "all"
        )
        parts.append(
            f"Gain of the second look on {kind}: {gain['gain_points']:+.1f} "
            f"[{gain['gain_low_points']:+.1f}, {gain['gain_high_points']:+.1f}] points ({sizes})."
        )
    if noc := summary.get("noc"):
        parts.append(_noc_lines(noc))
    return "\n\n".join(parts)


def _main_rows(kinds: dict[str, dict[str, Any]]) -> list[list[str]]:
    levels = [f"IoU ≥ {level:g}" for level in IOU_LEVELS]
    rows = [["prompt, %", "mIoU", "95 % interval", *SIZES, *levels, "boundary IoU"]]
    for name, kind in kinds.items():
        shares = [f"{kind[f'share_at_iou_{round(100 * level)}_percent']:.1f}" for level in IOU_LEVELS]
        rows.append(
            [
                _label(name, kind),
                _miou(kind),
                f"{kind['miou_low_percent']:.1f} to {kind['miou_high_percent']:.1f}",
                *(_miou(kind["by_size"].get(size)) for size in SIZES),
                *shares,
                f"{kind['boundary_iou_percent']:.1f}",
            ]
        )
    return rows


def _label(name: str, kind: dict[str, Any]) -> str:
    return f"free: {name}" if kind["baseline"] else name


def _miou(figures: dict[str, Any] | None) -> str:
    return "" if figures is None else f"{figures['miou_percent']:.1f}"


def _predicted_line(predicted: dict[str, Any]) -> str:
    known = [
        f"{label} {predicted[name]:.3f}"
        for label, name in (("Pearson", "pearson_correlation"), ("Spearman", "spearman_correlation"))
        if name in predicted
    ]
    known.append(f"mean absolute error {predicted['mean_absolute_error_percent']:.1f} points")
    return f"Predicted against true IoU over box and click ({predicted['prompts']} prompts): {', '.join(known)}."


def _noc_lines(noc: dict[str, Any]) -> str:
    lines = []
    for target in NOC_TARGETS:
        name = f"to_iou_{round(100 * target)}"
        lines.append(
            f"Clicks to IoU {target:.2f} (at most {noc['limit_clicks']}): {noc[f'{name}_clicks']:.2f} "
            f"[{noc[f'{name}_low_clicks']:.2f}, {noc[f'{name}_high_clicks']:.2f}], "
            f"not reached by {noc[f'{name}_failed_percent']:.1f} % of {noc['objects']} objects."
        )
    return "\n".join(lines)


def _table(rows: list[list[str]]) -> str:
    """Rows of equal length as Markdown; the first is the head, the first column is left-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| "
        + " | ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
