"""Real runs of a small model, few iterations: every row in a process of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sam_edge.benchmarks.harness import Harness, Job, Plan, Settings, journal_path
from sam_edge.benchmarks.masks import compare_masks, worst_masks
from sam_edge.benchmarks.matrix import expand
from sam_edge.benchmarks.process import Limits, run_job
from sam_edge.benchmarks.records import read_records, write_records
from sam_edge.benchmarks.summary import Summary
from sam_edge.benchmarks.timing import BLOCKS
from sam_edge.errors import DataError
from sam_edge.evaluate.provenance import file_sha256
from sam_edge.model.checkpoints import NANO_WEIGHTS, save_checkpoint
from tests.benchmarks.faults import FAULTY_THREADS, plant
from tests.sa1b import PHOTOS
from tests.small_artifact import SPEC, small_artifact
from tests.tiny_models import tiny_model

QUICK = Settings(
    rounds=2,
    scenarios=("single",),
    min_iterations=3,
    min_seconds=0.0,
    prompts=(16,),
    scenario_rounds=1,
    scenario_iterations=1,
    points_per_side=4,
    sustained_seconds=0.5,
    photos=1,
)


def plan_for(model: Path, threads: tuple[int, ...] = (1,), **changes: Any) -> Plan:
    rows = tuple(expand([str(model)], ["auto"], [], [], threads))
    return Plan(rows, replace(QUICK, **changes), reference=str(model), command="pytest")


class Stopped(Exception):
    pass


class KnownCosts(Harness):
    """Runs nothing, and notes what its jobs would have cost."""

    def _do(self, job: Job) -> None:
        seconds = 5000.0 if job.task == "everything" else 10.0
        self.journal.entries[job.key] = {"row": job.row, "task": job.task, "round": job.round, "seconds": seconds}


@pytest.fixture(scope="module")
def whole_run(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], list[Job]]:
    """Records of one row, its null comparison and a row that cannot be measured, in all scenarios; and the jobs."""
    out = tmp_path_factory.mktemp("run") / "bench.jsonl"
    plan = plan_for(small_model, scenarios=("single", "multi", "everything", "sustained"))
    unknown = expand(["nano"], ["abacus"], [], [], [1])
    plan = replace(plan, configurations=(*plan.configurations, *unknown))
    jobs: list[Job] = []
    harness = Harness(plan, out, on_start=jobs.append)
    harness.run()
    write_records(out, Summary(plan, harness.journal).records())
    return read_records([out]).records, jobs


def test_latency_memory_and_masks_stand_in_one_record(whole_run: tuple[list[dict[str, Any]], list[Job]]) -> None:
    record = whole_run[0][0]
    assert record["status"] == "measured"
    assert record["run"] | {"quick": True, "rounds_done": 2} == record["run"]
    stages = {"preprocess", "encode", "decode", "postprocess", "click", "end_to_end"}
    assert record["stages"].keys() == stages
    for stage in record["stages"].values():
        assert stage["iterations"] == 2 * BLOCKS  # in each of two rounds: three were asked for, a block has one
        assert len(stage["round_p50_ms"]) == len(stage["round_yardstick_ms"]) == 2
        assert 0 < stage["min_ms"] <= stage["p50_ms"] <= stage["p90_ms"] <= stage["p99_ms"]
    assert len(record["load_ms"]) == len(record["first_ms"]) == len(record["rounds"]) == 2
    assert record["memory"]["peak_bytes"] > record["memory"]["before_load_bytes"] > 0
    assert record["artifact"]["bytes"] == sum(file["bytes"] for file in record["artifact"]["files"]) > 0
    kinds = record["quality"]["kinds"]
    assert kinds.keys() == {"box", "click", "click3", "mask"}
    assert all(kind["mask_iou_min"] == 1.0 and kind["miou_percent"] > 0 for kind in kinds.values())
    assert record["machine"]["cpu"] and "load_average_1min" in record["rounds"][0]["before"]
    assert len(record["worst"]) == 2 and record["worst"][0]["mask_iou"] == 1.0


def test_the_other_scenarios_have_figures_of_their_own(whole_run: tuple[list[dict[str, Any]], list[Job]]) -> None:
    scenarios = whole_run[0][0]["scenarios"]
    assert scenarios.keys() == {"prompts_16", "everything", "sustained"}
    assert scenarios["prompts_16"]["iterations"] == 1 and scenarios["everything"]["p50_ms"] > 0
    assert scenarios["everything"]["masks"] >= 0 and scenarios["everything"]["peak_memory_bytes"] > 0
    assert len(scenarios["sustained"]["windows"]) == 2


def test_rounds_are_in_reversed_order_with_the_null_comparison_in_them(
    whole_run: tuple[list[dict[str, Any]], list[Job]],
) -> None:
    records, jobs = whole_run
    single = [(job.round, job.row) for job in jobs if job.task == "single"]
    first, again = records[0]["configuration"]["name"], records[2]["configuration"]["name"]
    assert single == [(0, first), (0, again), (1, again), (1, first)]
    assert records[2]["null_of"] == first and "quality" not in records[2]


def test_long_scenarios_have_one_round_first_and_their_others_last(small_model: Path, tmp_path: Path) -> None:
    plan = plan_for(small_model, null=False, rounds=3, scenario_rounds=2, scenarios=("single", "everything"))
    rounds = Harness(plan, tmp_path / "bench.jsonl")._rounds()
    order = [[(job.task, job.round) for job in jobs if job.row == plan.rows[0].name] for jobs in rounds]
    assert order == [
        [("single", 0), ("everything", 0)],
        [("single", 1)],
        [("single", 2)],
        [("everything", 1)],
    ]


def test_a_time_box_leaves_out_the_rounds_that_do_not_fit_and_no_other(small_model: Path, tmp_path: Path) -> None:
    plan = plan_for(small_model, null=False, rounds=3, scenario_rounds=2, scenarios=("single", "everything"))
    harness = KnownCosts(replace(plan, budget_seconds=1000.0), tmp_path / "bench.jsonl")
    harness.run()
    assert sorted((task, number) for _, task, number in harness.journal.entries if task != "quality") == [
        ("everything", 0),
        ("single", 0),
        ("single", 1),
        ("single", 2),
    ]


def test_a_row_that_cannot_be_measured_says_why_and_the_rest_goes_on(
    whole_run: tuple[list[dict[str, Any]], list[Job]],
) -> None:
    row = whole_run[0][1]
    assert row["status"] == "not available" and "'abacus' is not known" in row["reason"]
    assert "stages" not in row


def test_no_path_of_this_machine_is_in_a_record(
    whole_run: tuple[list[dict[str, Any]], list[Job]], small_model: Path
) -> None:
    assert str(small_model.parent) not in json.dumps(whole_run[0])


def test_a_run_that_was_ended_goes_on_without_losing_what_was_done(small_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.jsonl"
    plan = plan_for(small_model, null=False)

    def stop(job: Job) -> None:
        if job.task == "single" and job.round == 1:
            raise Stopped

    with pytest.raises(Stopped):
        Harness(plan, out, on_start=stop).run()
    with journal_path(out).open("a") as file:
        file.write('{"row": "cut while it was wri')
    done: list[Job] = []
    harness = Harness(plan, out, on_start=done.append)
    assert harness.journal.resumed
    harness.run()
    assert [(job.task, job.round) for job in done] == [("single", 1)]
    assert Summary(plan, harness.journal).records()[0]["run"]["rounds_done"] == 2
    with pytest.raises(DataError, match="belongs to another run"):
        Harness(replace(plan, reference=""), out)


def test_two_checkpoints_of_one_file_name_are_each_judged_by_their_own_weights(tmp_path: Path) -> None:
    paths = []
    for folder, factor in (("a", 1.0), ("b", -1.0)):
        model = tiny_model("nano")
        for parameter in model.mask_decoder.parameters():
            parameter.data *= factor
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "student.safetensors")
        save_checkpoint(model, paths[-1])
    rows = tuple(expand([str(path) for path in paths], ["torch"], [], [], [1]))
    plan = Plan(rows, replace(QUICK, null=False, pictures=False))
    harness = Harness(plan, tmp_path / "bench.jsonl")
    for job in harness._once():
        harness._do(job)
    qualities = [record["quality"] for record in Summary(plan, harness.journal).records()]
    assert [quality["kinds"]["box"].get("mask_iou_min") for quality in qualities] == [1.0, 1.0]
    assert [quality["reference"] for quality in qualities] == [
        {"name": "student.safetensors torch", "sha256": file_sha256(path)} for path in paths
    ]


def test_artifacts_of_two_weights_of_one_model_are_each_held_to_their_own_checkpoint(tmp_path: Path) -> None:
    spec = replace(SPEC, name="nano")
    for digit in "ab":
        small_artifact(tmp_path / digit, name="nano", spec=spec, checkpoint_sha256=64 * digit)
    plan = Plan(tuple(expand([str(tmp_path / digit) for digit in "ab"], ["auto"], [], [], [1])), QUICK)
    jobs = [job for job in Harness(plan, tmp_path / "bench.jsonl")._once() if job.row.startswith("reference: ")]
    assert [job.arguments["expected_sha256"] for job in jobs] == [64 * "a", 64 * "b"]


@pytest.mark.parametrize("changed", ["student.pth", "teacher.pth"])
def test_a_run_is_not_continued_with_another_model_or_reference_of_the_same_name(changed: str, tmp_path: Path) -> None:
    for name in ("student.pth", "teacher.pth"):
        (tmp_path / name).write_bytes(b"weights")
    rows = tuple(expand([str(tmp_path / "student.pth")], ["torch"], [], [], [1]))
    plan = Plan(rows, QUICK, reference=str(tmp_path / "teacher.pth"))
    Harness(plan, tmp_path / "bench.jsonl")
    assert Harness(plan, tmp_path / "bench.jsonl").journal.resumed
    (tmp_path / changed).write_bytes(b"others.")
    with pytest.raises(DataError, match="belongs to another run"):
        Harness(plan, tmp_path / "bench.jsonl")


def test_a_row_names_the_files_that_its_runtime_loads(tmp_path: Path) -> None:
    plan = Plan(tuple(expand(["nano"], ["onnx", "torch"], [], [], [1])), replace(QUICK, null=False))
    harness = Harness(plan, tmp_path / "bench.jsonl")
    onnx, torch = (record["artifact"] for record in Summary(plan, harness.journal).records())
    assert [file["name"] for file in onnx["files"]] == ["decoder.onnx", "encoder.onnx"]
    assert torch["files"] == [
        {"name": NANO_WEIGHTS.name, "bytes": NANO_WEIGHTS.stat().st_size, "sha256": file_sha256(NANO_WEIGHTS)}
    ]
    assert torch["bytes"] == NANO_WEIGHTS.stat().st_size


def test_a_core_ml_row_has_the_size_of_its_packages(tmp_path: Path) -> None:
    from tests.small_coreml import small_coreml_artifact

    artifact = small_coreml_artifact(tmp_path / "small")
    plan = Plan(tuple(expand([str(artifact.directory)], ["auto"], [], [], [1])), replace(QUICK, null=False))
    harness = Harness(plan, tmp_path / "bench.jsonl")
    (record,) = Summary(plan, harness.journal).records()
    sizes = {file["name"]: file["bytes"] for file in record["artifact"]["files"]}
    packages = {name: entry.bytes for name, entry in artifact.manifest.files.items() if ".mlpackage/" in name}
    assert sizes == packages and record["artifact"]["bytes"] == sum(packages.values()) > 0


def test_a_budget_stops_between_rounds_and_the_record_says_how_many(small_model: Path, tmp_path: Path) -> None:
    plan = replace(plan_for(small_model, null=False, rounds=50), budget_seconds=0.1)
    harness = Harness(plan, tmp_path / "bench.jsonl")
    harness.run()
    (record,) = Summary(plan, harness.journal).records()
    assert record["run"] | {"rounds_done": 1, "rounds_wanted": 50, "quick": True} == record["run"]


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [("crash", "crashed", "SIGABRT"), ("missing", "not available", "pip install")],
)
def test_a_runtime_that_crashes_or_is_missing_costs_its_own_row_only(
    fault: str, status: str, reason: str, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(fault, tmp_path / "site", monkeypatch)
    plan = plan_for(small_model, (1, FAULTY_THREADS), null=False, rounds=1)
    harness = Harness(plan, tmp_path / "bench.jsonl")
    harness.run()
    good, bad = Summary(plan, harness.journal).records()
    assert good["status"] == "measured" and "stages" in good
    assert bad["status"] == status and reason in bad["reason"]
    assert fault != "crash" or "the runtime says why" in bad["stderr_tail"]


@pytest.mark.parametrize(
    ("limits", "status"),
    [(Limits(seconds=0.2), "over its time limit"), (Limits(memory_bytes=1 << 20), "over its memory limit")],
)
def test_a_process_over_its_limit_is_ended_and_says_so(limits: Limits, status: str, small_model: Path) -> None:
    job = {"task": "quality", "path": str(small_model), "runtime": "onnx", "size_px": 0, "threads": 1}
    outcome = run_job(job | {"data": [str(PHOTOS)], "photos": 0}, limits)
    assert (outcome.status, outcome.result) == (status, {})
    assert "limit" in outcome.reason


def test_photos_without_ground_truth_are_compared_with_the_reference_only(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes((PHOTOS / "coffee.jpg").read_bytes())
    plan = plan_for(small_model, data=(str(tmp_path / "photos"),), null=False, rounds=1)
    harness = Harness(plan, tmp_path / "bench.jsonl")
    harness.run()
    (record,) = Summary(plan, harness.journal).records()
    assert record["quality"]["data"]["ground_truth"] is False
    kinds = record["quality"]["kinds"]
    assert kinds.keys() == {"box", "click"}
    assert all(kind["mask_iou_mean"] == 1.0 and "miou_percent" not in kind for kind in kinds.values())
    assert record["stages"]["encode"]["p50_ms"] > 0


def test_the_worst_masks_come_first_each_with_both_pictures(small_model: Path) -> None:
    from sam_edge.benchmarks.masks import draw_masks
    from sam_edge.runtimes import load

    reference = draw_masks(load(small_model, threads=1), [PHOTOS], 1)
    tested = json.loads(json.dumps(reference))
    empty = next(s["rle"] for s in draw_masks(load(small_model, threads=1), [PHOTOS], 1)["scores"]) | {"counts": "0"}
    tested["scores"][-1]["rle"] = empty | {"counts": _empty_counts(reference["scores"][-1]["rle"]["size"])}
    worst = worst_masks(reference, tested)
    assert worst[0]["mask_iou"] < 0.5 and worst[0]["kind"] == reference["scores"][-1]["kind"]
    assert worst[0]["picture_jpeg_base64"].startswith("/9j/")
    figures = compare_masks(reference, tested)[reference["scores"][-1]["kind"]]
    assert figures["mask_iou_min"] == worst[0]["mask_iou"]
    assert "mask_iou_mean" not in compare_masks(None, tested)["box"]


def _empty_counts(size: list[int]) -> str:
    import numpy as np
    from pycocotools import mask as coco_mask

    counts: bytes = coco_mask.encode(np.zeros(size, np.uint8, order="F"))["counts"]
    return counts.decode("ascii")
