"""A kit is made, its tools' real outputs are read, and a mask that is wrong shows."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sam_edge.benchmarks.device_kit import write_kit
from sam_edge.benchmarks.read_back import is_kit, read_kit
from sam_edge.benchmarks.records import parse_records, to_lines
from sam_edge.benchmarks.report import write_report
from sam_edge.benchmarks.tools import read_tool
from sam_edge.errors import DataError
from sam_edge.runtimes import load

OUTPUTS = Path(__file__).parent / "tool_outputs"


@pytest.fixture
def kit(small_model: Path, tmp_path: Path) -> Path:
    write_kit(small_model, tmp_path / "kit.zip")
    with zipfile.ZipFile(tmp_path / "kit.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path / "kit"


def test_a_kit_holds_a_whole_artifact_inputs_outputs_and_commands(kit: Path) -> None:
    assert is_kit(kit) and not is_kit(kit / "artifact")
    load(kit / "artifact")
    description = json.loads((kit / "kit.json").read_text())
    for folder, part in (("inputs", "inputs"), ("expected", "expected")):
        for tensor in description[part]:
            values = np.fromfile(kit / folder / f"{tensor['name']}.bin", "<f4")
            assert values.size == np.prod(tensor["shape"]) and np.isfinite(values).all()
    readme = (kit / "README.md").read_text()
    assert "onnxruntime_perf_test -e cpu" in readme and "sam-edge report kit" in readme


def test_the_same_artifact_makes_the_same_kit(small_model: Path, tmp_path: Path) -> None:
    first, second = (write_kit(small_model, tmp_path / name).read_bytes() for name in ("a.zip", "b.zip"))
    assert first == second


@pytest.mark.parametrize(
    ("file", "tool", "figures"),
    [
        ("litert-benchmark-encoder.json", "litert-benchmark", {"p50_ms", "mean_ms", "min_ms", "load_ms", "first_ms"}),
        ("benchmark_app-encoder.json", "benchmark_app", {"p50_ms", "mean_ms", "min_ms", "load_ms", "first_ms"}),
        ("benchmark_app-encoder.txt", "benchmark_app", {"p50_ms", "mean_ms", "min_ms", "first_ms"}),
    ],
)
def test_real_output_of_the_tools_that_run_here_is_read(file: str, tool: str, figures: set[str]) -> None:
    name, found = read_tool((OUTPUTS / file).read_text(), file)
    assert name == tool and figures <= found.keys()
    assert 0 < found["min_ms"] <= found["p50_ms"] and found["iterations"] >= 10


def test_what_tools_elsewhere_print_is_read_with_its_units() -> None:
    """Written by hand in these tools' forms: they do not run here, so only the units and names are held."""
    native = "count=50 first=5100 curr=5000 min=4900 max=6000 avg=5050 std=20\n" + (
        "Inference timings in us: Init: 21000, First inference: 9000, Warmup (avg): 6000, Inference (avg): 5050"
    )
    assert read_tool(native, "x") == (
        "benchmark_model",
        {"load_ms": 21.0, "first_ms": 9.0, "mean_ms": 5.05, "iterations": 50, "min_ms": 4.9},
    )
    perf = "Session creation time cost: 0.15 s\nFirst inference time cost: 40 ms\n"
    perf += "Average inference time cost: 30.5 ms\nMin Latency: 0.029 s\nP50 Latency: 0.0301 s\nP90 Latency: 0.033 s\n"
    tool, found = read_tool(perf, "x")
    assert tool == "onnxruntime_perf_test"
    expected = {"load_ms": 150.0, "first_ms": 40.0, "mean_ms": 30.5, "min_ms": 29.0, "p50_ms": 30.1, "p90_ms": 33.0}
    assert found == pytest.approx(expected)
    assert read_tool('{"xcode": {"prediction_median_ms": 12.3}}', "x") == ("Xcode", {"p50_ms": 12.3})


def test_a_file_that_no_tool_wrote_is_an_error() -> None:
    with pytest.raises(DataError, match=r"note\.txt is not the output of a tool"):
        read_tool("I measured 12 ms", "note.txt")


def test_results_become_a_record_whose_mask_is_compared_with_the_golden_one(kit: Path, tmp_path: Path) -> None:
    shutil.copy(OUTPUTS / "litert-benchmark-encoder.json", kit / "results" / "encoder.json")
    shutil.copy(OUTPUTS / "litert-benchmark-decoder.json", kit / "results" / "decoder.json")
    (kit / "results" / "device.txt").write_text("a phone,\nits chip\n")
    assert "quality" not in read_kit(kit)
    shutil.copy(kit / "expected" / "low_res_masks.bin", kit / "results")
    record = read_kit(kit)
    assert parse_records(to_lines([record]), "x").records == [record]
    assert record["machine"] == {"device": "a phone, its chip"}
    assert record["stages"].keys() == {"encode", "decode"} and record["stages"]["encode"]["p50_ms"] > 0
    assert record["quality"]["kinds"]["box"]["mask_iou_mean"] == 1.0
    values = np.fromfile(kit / "expected" / "low_res_masks.bin", "<f4")
    (-values).tofile(kit / "results" / "low_res_masks.bin")
    assert read_kit(kit)["quality"]["kinds"]["box"]["mask_iou_mean"] < 0.1
    _, html = write_report([record], tmp_path / "report")
    assert "a phone, its chip" in html.read_text()


def test_a_kit_without_results_or_with_half_a_mask_is_an_error(kit: Path) -> None:
    with pytest.raises(DataError, match="has no encoder"):
        read_kit(kit)
    shutil.copy(OUTPUTS / "litert-benchmark-encoder.json", kit / "results" / "encoder.json")
    (kit / "results" / "low_res_masks.bin").write_bytes(b"\0" * 10)
    with pytest.raises(DataError, match="10 bytes"):
        read_kit(kit)
