from __future__ import annotations

import copy

import pytest

from sam_edge.benchmarks.compare import compare
from tests.benchmarks.made_records import made_record, made_run

NAMES = ["nano onnx fp32", "nano openvino fp32", "nano tflite int8", "nano torch fp32"]


def test_two_runs_of_the_same_code_are_within_noise_in_at_least_95_percent_of_the_rows() -> None:
    verdicts = [
        change.verdict
        for seed in range(0, 16, 2)
        for change in compare(made_run(NAMES, seed), made_run(NAMES, seed + 1)).changes
    ]
    assert len(verdicts) == 96
    assert verdicts.count("within noise") >= 0.95 * len(verdicts)


@pytest.mark.parametrize(("factor", "verdict"), [(1.15, "slower"), (1 / 1.15, "faster")])
def test_a_change_of_15_percent_is_named_in_its_row_only(factor: float, verdict: str) -> None:
    old, new = made_run(NAMES, 1), made_run(NAMES, 2)
    new[2] = made_record(NAMES[2], 77, slower=factor)
    found = compare(old, new)
    assert {change.row for change in found.changes if change.verdict == verdict} == {NAMES[2]}
    assert {c.stage for c in found.changes if c.verdict == verdict} == {"encode", "click", "end_to_end"}
    assert bool(found.regressions) == (verdict == "slower")
    change = next(change for change in found.changes if change.row == NAMES[2])
    assert change.low < change.ratio < change.high and change.ratio == pytest.approx(factor, abs=0.06)


def test_a_machine_that_was_slower_as_a_whole_is_named_and_not_a_regression() -> None:
    found = compare(made_run(NAMES, 1), made_run(NAMES, 2, machine=1.2))
    assert {change.verdict for change in found.changes} == {"within noise"}
    assert any("the machine itself took 1.2" in note for note in found.notes)


@pytest.mark.parametrize("machine", [0.9, 1.1])
def test_a_change_is_named_although_the_machine_drifted_meanwhile(machine: float) -> None:
    found = compare(made_run(NAMES, 1), made_run(NAMES, 2, machine=machine, slower=1.15))
    assert {change.verdict for change in found.changes} == {"slower"}


def test_without_a_yardstick_beside_the_stages_the_drift_is_said_to_remain() -> None:
    old, new = made_run(NAMES, 1), made_run(NAMES, 2, machine=1.2)
    for stage in old[0]["stages"].values():
        del stage["round_yardstick_ms"]
    found = compare(old, new)
    assert any("no yardstick beside its stages" in note for note in found.notes)
    assert {change.verdict for change in found.changes} == {"slower"}


def test_a_noisy_null_comparison_widens_the_noise() -> None:
    quiet, noisy = (compare(made_run(NAMES, 1, noise=n), made_run(NAMES, 2, noise=n)) for n in (0.01, 0.3))
    assert quiet.changes[0].noise_high < 1.05 < noisy.changes[0].noise_high


def test_different_machines_and_versions_are_named() -> None:
    new = copy.deepcopy(made_run(NAMES, 2))
    for record in new:
        record["machine"] = record["machine"] | {"cpu": "another", "libraries": {"onnxruntime": "2.0"}}
    machine, versions = compare(made_run(NAMES, 1), new).notes
    assert "different machines" in machine and "cpu made against another" in machine
    assert "onnxruntime 1.0 against 2.0" in versions


def test_rows_that_only_one_run_has_are_named_and_few_rounds_are_not_judged() -> None:
    found = compare(made_run(NAMES[:2], 1, rounds=2), made_run([NAMES[0], "other onnx fp32"], 2, rounds=2))
    assert {change.verdict for change in found.changes} == {"too few rounds"}
    assert any(f"only OLD has the row {NAMES[1]}" == note for note in found.notes)
    assert any(note == "only NEW has the row other onnx fp32" for note in found.notes)


def test_a_row_that_could_not_be_measured_any_more_is_named() -> None:
    new = made_run(NAMES, 2)
    new[1] = {k: v for k, v in new[1].items() if k != "stages"} | {"status": "crashed", "reason": "signal"}
    assert f"{NAMES[1]} was measured, now crashed" in compare(made_run(NAMES, 1), new).notes


def test_without_a_null_comparison_the_noise_is_said_to_be_assumed() -> None:
    found = compare(made_run(NAMES, 1)[:-1], made_run(NAMES, 2)[:-1])
    assert any("neither run has a null comparison" in note for note in found.notes)


def test_worse_masks_are_a_regression() -> None:
    def with_iou(value: float) -> list[dict[str, object]]:
        kinds = {"box": {"objects": 9, "mask_iou_mean": value, "miou_percent": 70.0}}
        return made_run(NAMES[:1], 1, quality={"kinds": kinds})

    assert compare(with_iou(0.99), with_iou(0.989)).masks == {}
    found = compare(with_iou(0.99), with_iou(0.95))
    assert "box mask_iou_mean 0.9900 to 0.9500" in found.masks[NAMES[0]]
    assert found.regressions
