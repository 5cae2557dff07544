from __future__ import annotations

from pathlib import Path

import pytest

from sam_edge.benchmarks.profiles import Op, fold, operations, profile
from sam_edge.errors import RuntimeUnavailable
from sam_edge.model.checkpoints import save_checkpoint
from tests.small_openvino import whole_openvino
from tests.tiny_models import tiny_model


@pytest.mark.parametrize(
    ("kind", "inputs", "output", "expected"),
    [
        ("Conv", [(1, 3, 8, 8), (16, 3, 3, 3), (16,)], (1, 16, 8, 8), 2 * 16 * 64 * 27),
        ("QLinearConv", [(1, 8, 8, 32), (), (32, 1, 3, 3)], (1, 8, 8, 32), 2 * 64 * 32 * 9),  # depthwise
        ("Convolution", [(1, 32, 8, 8), (32, 1, 1, 3, 3)], (1, 32, 8, 8), 2 * 64 * 32 * 9),
        ("ConvTranspose", [(1, 4, 8, 8), (4, 2, 2, 2)], (1, 2, 16, 16), 2 * 256 * 8),
        ("MatMul", [(5, 7), (7, 3)], (5, 3), 2 * 15 * 7),
        ("FusedMatMul", [(4, 7, 5), (4, 7, 3)], (4, 5, 3), 2 * 60 * 7),  # the first transposed, in batches
        ("Add", [(5, 7), (5, 7)], (5, 7), 0),
    ],
)
def test_operations_are_counted_from_shapes(
    kind: str, inputs: list[tuple[int, ...]], output: tuple[int, ...], expected: int
) -> None:
    assert operations(kind, inputs, output) == expected


def test_calls_of_a_type_are_one_line_with_their_share_and_rates() -> None:
    conv, add = fold([Op("Conv", 3.0, 6e6, 3e6), Op("Add", 1.0, 0, 2e6), Op("Conv", 4.0, 8e6, 4e6)], runs=1)
    assert conv == {"type": "Conv", "calls": 2, "ms": 7.0, "share_percent": 87.5, "gflop_per_s": 2.0, "gb_per_s": 1.0}
    assert add == {"type": "Add", "calls": 1, "ms": 1.0, "share_percent": 12.5, "gb_per_s": 2.0}


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "torch"])
def test_each_profiler_gives_both_graphs_with_the_products_counted(
    runtime: str, small_model: Path, tmp_path: Path
) -> None:
    path = small_model
    if runtime == "openvino":
        path = whole_openvino(tmp_path)
    elif runtime == "torch":
        path = tmp_path / "tiny.safetensors"
        save_checkpoint(tiny_model("nano"), path)
    job = {"runtime": runtime, "path": str(path), "size_px": 0, "threads": 1, "scratch": str(tmp_path)}
    graphs = profile(job)["graphs"]
    assert graphs.keys() == {"encoder", "decoder"}
    for table in graphs.values():
        assert sum(row["share_percent"] for row in table) == pytest.approx(100, abs=0.5)
        assert all(row["ms"] >= 0 and row["calls"] >= 1 for row in table)
    assert any("onv" in row["type"] and row.get("gflop_per_s", 0) > 0 for row in graphs["encoder"])


def test_a_runtime_without_a_profiler_says_where_there_is_one() -> None:
    with pytest.raises(RuntimeUnavailable, match="benchmark_model"):
        profile({"runtime": "tflite", "path": "any"})
