"""What the runtimes' own benchmark tools write, as one stage's figures. What a tool does not say is absent."""

from __future__ import annotations

import json
import re
from typing import Any

from sam_edge.errors import DataError

__all__ = ["read_tool"]

NUMBER = r"([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)"


def read_tool(text: str, where: str) -> tuple[str, dict[str, Any]]:
    """(the tool's name, figures) of one output file, recognised by its content. Raises DataError.

    Figures: p50_ms, p90_ms, p99_ms, mean_ms, min_ms, iterations, load_ms, first_ms.
    """
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    for name, read in READERS.items():
        figures = read(text, parsed if isinstance(parsed, dict) else {})
        if figures:
            return name, figures
    raise DataError(
        f"{where} is not the output of a tool that is known here ({', '.join(READERS)}). Run the command of the kit's "
        "README again, and keep all it prints."
    )


def _litert_python(_: str, parsed: dict[str, Any]) -> dict[str, Any]:
    """`litert-benchmark --result_json`."""
    latency = parsed.get("latency")
    if not isinstance(latency, dict):
        return {}
    names = {"p50_ms": "median_ms", "mean_ms": "avg_ms", "min_ms": "min_ms", "iterations": "num_runs"}
    names |= {"load_ms": "init_ms", "first_ms": "warmup_first_ms"}
    return {ours: latency[theirs] for ours, theirs in names.items() if isinstance(latency.get(theirs), int | float)}


def _litert_native(text: str, _: dict[str, Any]) -> dict[str, Any]:
    """LiteRT's `benchmark_model`: microseconds in a line of their own, after lines with count, min and so on."""
    line = re.search(
        rf"Inference timings in us: Init: {NUMBER}, First inference: {NUMBER}, Warmup \(avg\): {NUMBER}, "
        rf"Inference \(avg\): {NUMBER}",
        text,
    )
    if line is None:
        return {}
    load, first, _warm, mean = (float(value) / 1e3 for value in line.groups())
    found: dict[str, Any] = {"load_ms": load, "first_ms": first, "mean_ms": mean}
    runs = re.findall(rf"count=([0-9]+).*?\bmin={NUMBER}.*?(?:median={NUMBER})?$", text, re.MULTILINE)
    if runs:
        count, least, median = runs[-1]  # the line before is the warm-up's
        found |= {"iterations": int(count), "min_ms": float(least) / 1e3}
        found |= {"p50_ms": float(median) / 1e3} if median else {}
    return found


def _onnxruntime(text: str, _: dict[str, Any]) -> dict[str, Any]:
    """`onnxruntime_perf_test`: names and units as it prints them."""
    mean = re.search(rf"Average inference time cost(?: total)?: {NUMBER} ms", text)
    if mean is None:
        return {}
    found: dict[str, Any] = {"mean_ms": float(mean[1])}
    patterns = {
        "load_ms": rf"Session creation time cost: {NUMBER} s",
        "first_ms": rf"First inference time cost: {NUMBER} ms",
        "min_ms": rf"Min Latency: {NUMBER} s",
        "p50_ms": rf"P50 Latency: {NUMBER} s",
        "p90_ms": rf"P90 Latency: {NUMBER} s",
        "p99_ms": rf"P99 Latency: {NUMBER} s",
        "iterations": rf"Number of iterations: {NUMBER}|Total inference requests: {NUMBER}",
    }
    for name, pattern in patterns.items():
        match = re.search(pattern, text)
        if match:
            value = float(next(group for group in match.groups() if group is not None))
            found[name] = int(value) if name == "iterations" else value * (1e3 if pattern.endswith(" s") else 1)
    return found


def _openvino(text: str, parsed: dict[str, Any]) -> dict[str, Any]:
    """`benchmark_app`: its JSON statistics, or what it prints."""
    results = parsed.get("execution_results")
    if isinstance(results, dict):
        names = {"p50_ms": "latency (ms)", "mean_ms": "avg latency", "min_ms": "min latency"}
        names |= {"load_ms": "compile model time (ms)", "first_ms": "first inference time (ms)"}
        names |= {"iterations": "total number of iterations"}
        found = {ours: float(results[theirs]) for ours, theirs in names.items() if theirs in results}
    else:
        patterns = {"p50_ms": rf"Median: +{NUMBER} ms", "mean_ms": rf"Average: +{NUMBER} ms"}
        patterns |= {"min_ms": rf"Min: +{NUMBER} ms", "iterations": rf"Count: +{NUMBER} iterations"}
        patterns |= {"load_ms": rf"Compile model took {NUMBER} ms", "first_ms": rf"First inference took {NUMBER} ms"}
        matches = {name: re.search(pattern, text) for name, pattern in patterns.items()}
        found = {name: float(match[1]) for name, match in matches.items() if match}
        if "p50_ms" not in found:
            return {}
    return found | ({"iterations": int(found["iterations"])} if "iterations" in found else {})


def _xcode(_: str, parsed: dict[str, Any]) -> dict[str, Any]:
    """The medians that a person copied from Xcode's performance report."""
    report = parsed.get("xcode")
    if not isinstance(report, dict):
        return {}
    names = {"p50_ms": "prediction_median_ms", "load_ms": "load_median_ms"}
    return {ours: report[theirs] for ours, theirs in names.items() if isinstance(report.get(theirs), int | float)}


READERS = {
    "litert-benchmark": _litert_python,
    "benchmark_model": _litert_native,
    "onnxruntime_perf_test": _onnxruntime,
    "benchmark_app": _openvino,
    "Xcode": _xcode,
}
