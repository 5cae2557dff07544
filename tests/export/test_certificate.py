from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sam_edge.cli.export import _table
from sam_edge.evaluate.parity import KindParity, OutputError
from sam_edge.export.certificate import BOUNDS, Speed, certificate, failures, to_bytes
from sam_edge.export.pipeline import Row
from sam_edge.golden_vectors import GoldenDifference
from sam_edge.quantize.recipe import PRECISIONS


def parity(mask_iou_mean: float = 1.0, p5: float = 1.0, retention: float = 1.0) -> KindParity:
    return KindParity(10, mask_iou_mean, p5, 0.5, 0.0, 0.7 * retention, 0.7, retention)


def test_every_precision_has_bounds() -> None:
    assert BOUNDS.keys() == PRECISIONS.keys()


@pytest.mark.parametrize(
    ("precision", "kind", "missed"),
    [
        ("fp32", parity(), []),
        ("fp32", parity(mask_iou_mean=0.9949), ["box: mask_iou_mean is 0.9949, expected at least 0.995"]),
        ("fp32", parity(p5=0.97), ["box: mask_iou_p5 is 0.9700, expected at least 0.98"]),
        ("fp32", parity(mask_iou_mean=float("nan")), ["box: mask_iou_mean is nan, expected at least 0.995"]),
        ("fp16", parity(mask_iou_mean=0.992, p5=0.5), []),
        ("fp16", parity(retention=0.994), ["box: retention is 0.9940, expected at least 0.995"]),
        ("int8", parity(mask_iou_mean=0.8, p5=0.1, retention=0.9901), []),
        ("int8", parity(retention=0.98), ["box: retention is 0.9800, expected at least 0.99"]),
        ("int4-weights", parity(retention=0.98), ["box: retention is 0.9800, expected at least 0.99"]),
    ],
)
def test_the_bounds_of_the_protocol(precision: str, kind: KindParity, missed: list[str]) -> None:
    assert failures(precision, {"box": kind}) == missed


@pytest.mark.parametrize(("objects", "high", "passes"), [(9, 1.02, True), (9, 0.985, False), (100, 1.02, False)])
def test_few_objects_miss_retention_only_where_their_interval_does(objects: int, high: float, passes: bool) -> None:
    kind = replace(parity(retention=0.975), prompts=objects, retention_high=high)
    assert (not failures("int8", {"click3": kind})) == passes


def test_an_int8_encoder_that_is_slower_than_float_is_refused_with_the_figure() -> None:
    slow = Speed(2, encode_ms=50, decode_ms=9, fp32_encode_ms=25, ratio=0.5)
    assert failures("int8", {"box": parity()}, slow) == [
        "encode takes 2.00 times as long as in fp32, expected less than 1"
    ]
    assert failures("int8-weights", {"box": parity()}, slow) == []  # made for bytes, not for speed


def test_a_certificate_says_what_was_measured_and_is_json() -> None:
    found = certificate(
        precision="fp32",
        kinds={"box": parity(), "click": parity(mask_iou_mean=0.9)},
        outputs={"low_res_masks": OutputError(0.25, 0.01)},
        speed=None,
        data={"name": "bundled photos", "photos": 3},
        reference={"runtime": "torch"},
        runtime="onnx",
        golden=GoldenDifference(1e-5, 1e-4, 1e-6, 0.999),
    )
    read = json.loads(to_bytes(found))
    assert read["passed"] is False and read["missed"] == ["click: mask_iou_mean is 0.9000, expected at least 0.995"]
    assert read["outputs"]["low_res_masks"] == {"max_abs_error": 0.25, "relative_error": 0.01}
    assert read["bounds"] == {"mask_iou_mean": 0.995, "mask_iou_p5": 0.98} and "speed" not in read
    assert read["golden"]["mask_iou_min"] == 0.999


def test_figures_that_are_no_numbers_become_null_and_miss() -> None:
    nan = float("nan")
    found = certificate(
        precision="fp32",
        kinds={"box": replace(parity(mask_iou_mean=nan, p5=nan, retention=nan), retention_high=nan)},
        outputs={"low_res_masks": OutputError(nan, float("inf"))},
        speed=None,
        data={"name": "bundled photos", "photos": 3},
        reference={"runtime": "torch"},
        runtime="onnx",
        golden=GoldenDifference(nan, nan, nan, nan),
    )
    read = json.loads(to_bytes(found))
    assert read == found and not read["passed"] and len(read["missed"]) == 2
    assert read["kinds"]["box"]["mask_iou_mean"] is read["golden"]["mask_iou_min"] is None
    assert read["outputs"]["low_res_masks"] == {"max_abs_error": None, "relative_error": None}


def test_a_row_without_numbers_is_a_line_of_the_table() -> None:
    kinds = {"box": parity(retention=float("nan")), "click": parity(mask_iou_mean=float("nan"))}
    found = certificate(
        precision="int8",
        kinds=kinds,
        outputs={},
        speed=None,
        data={},
        reference={},
        runtime="onnx",
        golden=GoldenDifference(0, 0, 0, 1),
    )
    row = Row("onnx", "int8", "certify", "", 1000, 1.0, found)
    assert json.loads(json.dumps(row.to_dict(), allow_nan=False))["certificate"]["kinds"]["box"]["retention"] is None
    cells = [cell.strip() for cell in _table([row]).splitlines()[2].split("|")]
    assert cells[1:5] == ["onnx", "int8 MISSED", "0.00", "1.0000"] and cells[5] == cells[8] == "no number"
