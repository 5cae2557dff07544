"""A kit is made, its tools' real outputs are read, and a mask that is wrong shows."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from sam_edge.artifact import write_artifact
from sam_edge.benchmarks.device_kit import write_kit
from sam_edge.benchmarks.read_back import is_kit, read_kit, read_kits
from sam_edge.benchmarks.records import parse_records, to_lines
from sam_edge.benchmarks.report import write_report
from sam_edge.benchmarks.tools import read_tool
from sam_edge.errors import DataError
from sam_edge.golden_vectors import pack, record
from sam_edge.runtimes import load, load_to_verify
from tests.small_artifact import DECODER, ENCODER, SPEC, small_graph, small_manifest, small_photo, small_prompts

OUTPUTS = Path(__file__).parent / "tool_outputs"
# The small encoder with its preprocessing in the graph: it takes a photo of any size.
PREPROCESSING = """{
  levels = Cast <to = 1> (photo)
  planes = Transpose <perm = [2, 0, 1]> (levels)
  batch = Unsqueeze (planes, first)
  image = Resize <mode = "linear"> (batch, , , size)
"""
PHOTO_ENCODER = ENCODER.replace("float[1,3,64,64] image", "uint8[height,width,3] photo")
PHOTO_ENCODER = PHOTO_ENCODER.replace("<float[4", "<int64[1] first = {0}, int64[4] size = {1, 3, 64, 64}, float[4")
PHOTO_ENCODER = PHOTO_ENCODER.replace("{\n", PREPROCESSING)


def photo_model(parent: Path) -> Path:
    """An artifact folder whose encoder takes photos, with a golden photo of 48 x 40 px."""
    manifest = small_manifest(spec=replace(SPEC, photo_input=True))
    files = {"encoder.onnx": small_graph(PHOTO_ENCODER), "decoder.onnx": small_graph(DECODER)}
    draft = write_artifact(parent / "draft", manifest, files | {"golden.npz": pack(())})
    golden = record(load_to_verify(draft), small_photo(1), small_prompts())
    return write_artifact(parent / "photo", manifest, files | {"golden.npz": pack((golden,))}).directory


def unpacked(model: Path, where: Path, threads: int = 4) -> Path:
    where.mkdir(exist_ok=True)
    with zipfile.ZipFile(write_kit(model, where / "kit.zip", threads)) as archive:
        archive.extractall(where)
    return where / "kit"


def measured(kit: Path, device: str = "a phone") -> Path:
    """The kit, with what a tool wrote on a device."""
    shutil.copy(OUTPUTS / "litert-benchmark-encoder.json", kit / "results" / "encoder.json")
    (kit / "results" / "device.txt").write_text(device)
    return kit


@pytest.fixture
def kit(small_model: Path, tmp_path: Path) -> Path:
    return unpacked(small_model, tmp_path)


def test_the_encoder_makes_of_a_kits_input_what_the_kit_expects(small_model: Path, tmp_path: Path) -> None:
    photos = photo_model(tmp_path)
    for model, name, dtype in ((small_model, "image", "float32"), (photos, "photo", "uint8")):
        kit = unpacked(model, tmp_path / f"kit of {name}")
        taken = json.loads((kit / "kit.json").read_text())["inputs"][0]
        assert (taken["name"], taken["dtype"]) == (name, dtype)
        values = np.fromfile(kit / "inputs" / f"{name}.bin", dtype).reshape(taken["shape"])
        session = onnxruntime.InferenceSession(kit / "artifact" / "encoder.onnx")
        got = session.run(["image_embeddings"], {name: values})[0]
        np.testing.assert_allclose(got.ravel(), np.fromfile(kit / "expected" / "image_embeddings.bin", "<f4"), 1e-5)


def test_the_commands_of_an_encoder_that_takes_photos_give_the_photos_size(tmp_path: Path) -> None:
    readme = (unpacked(photo_model(tmp_path), tmp_path) / "README.md").read_text()
    encoder, decoder = (line for line in readme.splitlines() if line.startswith("    onnxruntime_perf_test"))
    assert "-f height:48 -f width:40 artifact/encoder.onnx" in encoder
    assert "-f prompts:1 -f points:2 artifact/decoder.onnx" in decoder


def test_kits_of_one_device_with_different_threads_are_two_rows(small_model: Path, tmp_path: Path) -> None:
    kits = [measured(unpacked(small_model, tmp_path / str(threads), threads)) for threads in (1, 4)]
    assert [f"-x {threads} " in (kit / "README.md").read_text() for kit, threads in zip(kits, (1, 4), strict=True)]
    found = read_kits(kits)
    assert [record["configuration"]["threads"] for record in found.records] == [1, 4]
    assert found.notes == []
    markdown, _ = write_report(found.records, tmp_path / "report")
    assert "| 1 thread |" in markdown.read_text() and "| 4 threads |" in markdown.read_text()


def test_kits_that_nothing_tells_apart_are_named(small_model: Path, tmp_path: Path) -> None:
    kits = [measured(unpacked(small_model, tmp_path / name), "") for name in ("first", "second")]
    (note,) = read_kits(kits).notes
    assert str(kits[0]) in note and str(kits[1]) in note and "results/device.txt" in note


def test_a_kit_of_an_older_version_is_read(kit: Path) -> None:
    description = json.loads((kit / "kit.json").read_text())
    del description["threads"]
    (kit / "kit.json").write_text(json.dumps(description))
    configuration = read_kit(measured(kit))["configuration"]
    assert (configuration["name"], configuration["threads"]) == ("small onnx fp32 64 px on a phone", 0)


@pytest.mark.parametrize(("field", "value"), [("threads", "four"), ("model", None)])
def test_a_kit_whose_description_was_damaged_is_one_clear_line(field: str, value: object, kit: Path) -> None:
    description = json.loads((kit / "kit.json").read_text())
    (kit / "kit.json").write_text(json.dumps(description | {field: value}))
    with pytest.raises(DataError, match=f"has '{value}' as {field}, expected"):
        read_kit(measured(kit))


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
