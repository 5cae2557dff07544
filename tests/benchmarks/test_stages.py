from __future__ import annotations

from pathlib import Path

from sam_edge.benchmarks.machine import describe_machine, memory_bytes
from sam_edge.benchmarks.stages import MIN_ITERATIONS, measure_stages

PHOTO = Path(__file__).parents[2] / "sam_edge" / "assets" / "photos" / "coffee.jpg"


def test_every_stage_of_the_shipped_model_is_timed_at_least_twenty_times() -> None:
    result = measure_stages("nano", "onnx", 1, str(PHOTO), everything=False)
    stages = {"preprocess_ms", "encode_ms", "decode_ms", "postprocess_ms", "click_ms", "end_to_end_ms"}
    assert result["samples"].keys() == stages
    assert all(len(samples) >= MIN_ITERATIONS and min(samples) > 0 for samples in result["samples"].values())
    click, decode = (sum(result["samples"][name]) / len(result["samples"][name]) for name in ("click_ms", "decode_ms"))
    assert decode < click < result["first_ms"] + result["load_ms"]
    assert result["memory_after_clicks"]["peak_resident_bytes"] > result["memory_before_load"]["resident_bytes"]


def test_the_machine_says_what_it_can_and_nothing_it_cannot() -> None:
    machine = describe_machine()
    assert machine["cores_visible"] >= 1 and machine["cpu"]
    assert None not in machine.values()
    assert "onnxruntime" in machine["libraries"]
    assert memory_bytes()["peak_resident_bytes"] >= memory_bytes()["resident_bytes"]
