"""An ablation's record (ablations.py) as a table."""

from __future__ import annotations

from typing import Any

__all__ = ["table"]


def table(record: dict[str, Any]) -> str:
    """A group's record as Markdown."""
    training, first = record["training"], record["variants"][0]["variant"]
    lines = [
        f"| variant | parameters | encode, 512 px | a click | box | against {first} | click | against {first} |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in record["variants"]:
        cells = [row["variant"], f"{row['parameters'] / 1e6:.2f} M", f"{row['encode_ms']:.0f} ms"]
        cells.append(f"{row['decode_ms']:.1f} ms")
        for figures in row["kinds"].values():
            cells += [f"{figures['miou_percent']:.1f}", "" if row["variant"] == first else _difference(figures)]
        lines.append(f"| {' | '.join(cells)} |")
    seen = record["data"]
    size = training["image_size_px"]
    return "\n".join(
        [
            *lines,
            "",
            f"`{record['command']}`: {training['steps']} steps of {training['photos_per_step']} photos at {size} px, "
            f"evaluated at {size} px on {seen['name']} ({seen['photos']} photos, {seen['objects']} objects); times "
            f"of ONNX Runtime float32 on one thread of a shared {record['machine']['cpu']}.",
        ]
    )


def _difference(figures: dict[str, float]) -> str:
    low, high = figures["difference_low_points"], figures["difference_high_points"]
    return f"{figures['difference_points']:+.1f} [{low:+.1f}, {high:+.1f}]"
