from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from sam_edge.benchmarks.__main__ import main
from sam_edge.benchmarks.harness import Settings
from sam_edge.benchmarks.machine import describe_machine, memory_bytes
from sam_edge.benchmarks.overview import SCHEMA


def test_one_record_has_every_stage_of_the_shipped_model_and_the_commands_cold_start(tmp_path: Path) -> None:
    out = tmp_path / "record.jsonl"
    arguments = ["--threads", "1", "--rounds", "1", "--no-everything", "-o", str(out)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    record = json.loads(out.read_text())
    assert record["schema"] == SCHEMA and record["command"].endswith("--threads 1 --rounds 1")
    stages = record["stages"]
    assert stages.keys() == {"preprocess", "encode", "decode", "postprocess", "click", "end_to_end"}
    least = Settings().min_iterations
    assert all(stage["iterations"] >= least and stage["min_ms"] > 0 for stage in stages.values())
    assert stages["decode"]["p50_ms"] < stages["click"]["p50_ms"] < record["first_ms"][0] + record["load_ms"][0]
    start = record["segment_cold_start"]
    assert len(start["wall_ms"]) == 5 and start["p50_ms"] > stages["end_to_end"]["p50_ms"]
    assert start["peak_resident_bytes"] > 50 * 2**20


def test_a_model_that_is_not_there_is_one_line() -> None:
    command = [sys.executable, "-m", "sam_edge.benchmarks", "--model", "nana", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "nana" in done.stderr


def test_the_machine_says_what_it_can_and_nothing_it_cannot() -> None:
    machine = describe_machine()
    assert machine["cores_visible"] >= 1 and machine["cpu"]
    assert None not in machine.values()
    assert "onnxruntime" in machine["libraries"]
    assert memory_bytes()["peak_resident_bytes"] >= memory_bytes()["resident_bytes"]
