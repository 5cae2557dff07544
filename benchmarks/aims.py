"""What the released model was to reach at least, and what it reaches: one table, misses with their distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["table"]


@dataclass(frozen=True)
class Aim:
    """`at_least` and `reached` in `unit`; for times `at_least` is at most."""

    what: str
    at_least: float
    reached: float
    unit: str
    digits: int = 1

    @property
    def line(self) -> str:
        missing = self.reached - self.at_least if self.unit == "ms" else self.at_least - self.reached
        verdict = "reached" if missing <= 0 else f"misses by {missing:.{self.digits}f}"
        bound = "at most" if self.unit == "ms" else "at least"
        unit = f" {self.unit}" if self.unit else ""
        return f"| {self.what} | {bound} {self.at_least:g}{unit} | {self.reached:z.{self.digits}f}{unit} | {verdict} |"


def table(cocoval: dict[str, Any], ecssd: dict[str, Any], measured: Sequence[dict[str, Any]]) -> str:
    """Markdown. cocoval, ecssd: records of `sam-edge eval --refine`; measured: records of `sam-edge bench`."""
    on_coco = {kind: figures["miou_percent"] for kind, figures in cocoval["kinds"].items()}
    correlation = cocoval["predicted_iou"]["pearson_correlation"]
    on_ecssd = {kind: figures["miou_percent"] for kind, figures in ecssd["kinds"].items()}
    fastest = {stage: _fastest(measured, stage) for stage in ("encode", "click")}
    aims = [
        Aim("`cocoval`, box, one look", 75, on_coco["box"], "%"),
        Aim("`cocoval`, click, one look", 56, on_coco["click"], "%"),
        Aim("`cocoval`, three clicks, one look", 69, on_coco["click3"], "%"),
        Aim("points gained by the second look, `cocoval`, box", 1, cocoval["second_look"]["box"]["gain_points"], ""),
        Aim("`ecssd`, box", 90, on_ecssd["box"], "%"),
        Aim("`ecssd`, click", 84, on_ecssd["click"], "%"),
        Aim("correlation of predicted with true IoU, `cocoval`", 0.7, correlation, "", 2),
        Aim("points of the best of three by predicted IoU over the single mask, `cocoval`, click", 2,
            on_coco["click-multi"] - on_coco["click"], ""),
        Aim(f"encode at 512 px: {_name(fastest['encode'])}", 30, _p50(fastest["encode"], "encode"), "ms"),
        Aim(f"a click: {_name(fastest['click'])}", 6, _p50(fastest["click"], "click"), "ms"),
    ]  # fmt: skip
    return "\n".join(["| what | aim | reached | |", "|---|---:|---:|---|", *(aim.line for aim in aims)])


def _fastest(measured: Sequence[dict[str, Any]], stage: str) -> dict[str, Any]:
    """Of the last record of each runtime and precision the one with the least median."""
    last = {_name(line): line for line in measured if "stages" in line and not line.get("null_of")}
    return min(last.values(), key=lambda line: _p50(line, stage))


def _name(line: dict[str, Any]) -> str:
    return f"{line['configuration']['runtime']} {line['configuration']['precision']}"


def _p50(line: dict[str, Any], stage: str) -> float:
    return float(line["stages"][stage]["p50_ms"])
