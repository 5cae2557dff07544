from __future__ import annotations

import copy
from typing import Any

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


def run_with_masks(iou: float, miou: float = 70.0, **changes: dict[str, Any]) -> list[dict[str, Any]]:
    quality: dict[str, Any] = {"kinds": {"box": {"objects": 9, "mask_iou_mean": iou, "miou_percent": miou}}}
    quality["data"] = {"name": "the bundled photos", "sha256": "d" * 64, "photos": 3}
    quality["reference"] = {"name": "nano torch 512 px", "sha256": "e" * 64}
    return made_run(NAMES[:1], 1, quality=quality | {part: quality[part] | fields for part, fields in changes.items()})


def test_worse_masks_are_a_regression() -> None:
    assert compare(run_with_masks(0.99), run_with_masks(0.989)).masks == {}
    found = compare(run_with_masks(0.99, 70.0), run_with_masks(0.95, 60.0))
    assert found.masks[NAMES[0]] == "box mask_iou_mean 0.9900 to 0.9500; box miou_percent 70.0 to 60.0"
    assert found.regressions and found.notes == ()


@pytest.mark.parametrize("other", [{"sha256": "f" * 64}, {"photos": 2}])
def test_masks_of_other_photos_are_not_judged_and_a_note_says_so(other: dict[str, Any]) -> None:
    found = compare(run_with_masks(0.99, 70.0), run_with_masks(0.95, 60.0, data=other))
    assert found.masks == {} and not found.regressions
    (note,) = found.notes
    assert "masks were drawn on the bundled photos (SHA-256 ddddddd), 3 photos" in note and NAMES[0] in note


@pytest.mark.parametrize("other", [{"name": "teacher.pth torch"}, {"sha256": "f" * 64}])
def test_with_another_reference_only_the_ground_truth_judges(other: dict[str, Any]) -> None:
    found = compare(run_with_masks(0.99, 70.0), run_with_masks(0.95, 60.0, reference=other))
    assert found.masks == {NAMES[0]: "box miou_percent 70.0 to 60.0"}
    (note,) = found.notes
    assert "the reference was nano torch 512 px (SHA-256 eeeeeee) in OLD" in note and "not judged" in note


def test_a_record_that_does_not_say_the_references_hash_is_compared_by_its_name() -> None:
    old, new = run_with_masks(0.99), run_with_masks(0.95)
    del old[0]["quality"]["reference"]["sha256"]
    assert compare(old, new).masks and compare(new, old).notes == ()


@pytest.mark.parametrize(("takes_photos", "judged"), [(False, {"encode"}), (True, set())])
def test_stages_of_a_photo_of_another_size_are_not_judged(takes_photos: bool, judged: set[str]) -> None:
    fields: dict[str, Any] = {"photo_input": True} if takes_photos else {}
    old, new = made_run(NAMES, 1, **fields), made_run(NAMES, 2, slower=1.5, **fields)
    for record in new:
        record["photo"] = {"width_px": 2048, "height_px": 1536}
    found = compare(old, new)
    assert {c.stage for c in found.changes if c.verdict == "slower"} == judged
    assert {c.verdict for c in found.changes if c.stage not in judged} == {"other photo"}
    (note,) = found.notes
    assert "512 x 512 px in OLD and 2048 x 1536 px in NEW" in note and f"{', '.join(NAMES[:3])} and 1 more" in note
