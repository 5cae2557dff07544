"""The run: every configuration in its own process, in rounds of reversed order, and nothing lost when it is killed.

Each finished process is one line of a journal beside the records (`NAME.rounds.jsonl`, with every sample), so that the
same command continues where an earlier one was ended; the records themselves are rewritten after each round.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

from sam_edge.artifact import open_artifact
from sam_edge.benchmarks.machine import describe_machine, machine_state
from sam_edge.benchmarks.masks import BUNDLED_PHOTOS
from sam_edge.benchmarks.matrix import Configuration
from sam_edge.benchmarks.process import Limits, Outcome, run_job
from sam_edge.errors import ArtifactError, DataError, SamEdgeError
from sam_edge.evaluate.provenance import data_sha256, model_files, source_commit
from sam_edge.runtimes import ASSETS, AUTO, CHECKPOINT_SUFFIXES, loaded_path

__all__ = ["Harness", "Job", "Journal", "Plan", "Settings", "loaded_files", "reference_of"]

JOURNAL_SCHEMA = "sam-edge/bench-rounds/1"
PROTOCOL_ROUNDS = 10  # fewer are labelled quick


@dataclass(frozen=True)
class Settings:
    """How much is measured; the defaults are the protocol's. A budget of 0 seconds is none."""

    rounds: int = PROTOCOL_ROUNDS
    scenarios: tuple[str, ...] = ("single", "multi", "everything")
    min_iterations: int = 20
    min_seconds: float = 0.5
    prompts: tuple[int, ...] = (16, 64)
    scenario_rounds: int = 3  # of multi-prompt and everything mode, whose iterations are long
    scenario_iterations: int = 3
    points_per_side: int = 32
    sustained_seconds: float = 60.0
    profile: bool = False
    photo: str = str(BUNDLED_PHOTOS / "astronaut.jpg")  # 512 x 512 px
    data: tuple[str, ...] = (str(BUNDLED_PHOTOS),)
    photos: int = 0
    null: bool = True
    pictures: bool = True


@dataclass(frozen=True)
class Plan:
    """A whole run. `reference`: a name, folder or checkpoint; "" is each model's own float32 torch form."""

    configurations: tuple[Configuration, ...]
    settings: Settings = Settings()
    reference: str = ""
    command: str = ""
    limits: Limits = Limits()
    budget_seconds: float = 0.0

    @property
    def rows(self) -> tuple[Configuration, ...]:
        """The configurations, and the first that can be measured once more for the null comparison."""
        first = next((row for row in self.configurations if not row.unavailable), None)
        if first is None or not self.settings.null:
            return self.configurations
        return (*self.configurations, replace(first, null=True))

    def identity(self) -> str:
        """Changes when another model, setting, data set or commit would be measured, or masks would be judged by
        another reference; the budget may change."""
        measured = [row for row in self.configurations if not row.unavailable]
        references = [reference_of(row, self.reference) for row in measured]
        loaded = {(row.path, row.runtime) for row in measured}
        # One whose hash its artifact names is checked by the process that loads it.
        loaded |= {(found["path"], found["runtime"]) for found in references if not found["sha256"]}
        what = {
            "rows": [asdict(row) for row in self.rows],
            "settings": asdict(self.settings),
            "reference": self.reference,
            "commit": source_commit(),
            "models": [[path, runtime, loaded_files(path, runtime)] for path, runtime in sorted(loaded)],
            "data": data_sha256([Path(path) for path in self.settings.data]),
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Job:
    """One process: a row's task in one round, or a reference's masks, or the machine's ceilings."""

    row: str
    task: str
    round: int
    arguments: dict[str, Any] = field(compare=False)

    @property
    def key(self) -> tuple[str, str, int]:
        return self.row, self.task, self.round


class Journal:
    """Finished processes, in the order in which they ran. Raises DataError for another run's file."""

    def __init__(self, path: Path, identity: str, machine: dict[str, Any]) -> None:
        self.path = path
        self.entries: dict[tuple[str, str, int], dict[str, Any]] = {}
        self.machine = machine
        self.resumed = False
        if path.exists():
            self._read(identity)
        if not self.resumed:
            head = {"schema": JOURNAL_SCHEMA, "run": identity, "machine": machine}
            path.write_text(json.dumps(head) + "\n", encoding="utf-8")

    @property
    def seconds(self) -> float:
        """Spent in all processes, of this call and of those it continues."""
        return float(sum(entry["seconds"] for entry in self.entries.values()))

    def add(self, job: Job, outcome: Outcome, before: dict[str, Any]) -> dict[str, Any]:
        """Append one finished process; it is on the disk when this returns."""
        entry = {
            "row": job.row,
            "task": job.task,
            "round": job.round,
            "before": before,
            "after": machine_state(),
            **asdict(outcome),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries[job.key] = entry
        return entry

    def of(self, row: str, task: str) -> list[dict[str, Any]]:
        """A row's entries of one task, by round."""
        return [entry for (name, kind, _), entry in sorted(self.entries.items()) if (name, kind) == (row, task)]

    def _read(self, identity: str) -> None:
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        try:
            head, *entries = [json.loads(line) for line in whole]
        except ValueError:  # empty, or damaged
            head, entries = {}, []
        if head.get("schema") != JOURNAL_SCHEMA or head.get("run") != identity:
            raise DataError(
                f"{self.path} belongs to another run (other models, settings, data or commit), and is not continued. "
                "Give another name with -o, or --restart to measure everything again."
            )
        if len(whole) < len(lines):  # the process was killed while it wrote: that one is measured again
            self.path.write_text("".join(whole), encoding="utf-8")
        self.machine = head["machine"]
        self.entries = {(entry["row"], entry["task"], entry["round"]): entry for entry in entries}
        self.resumed = True


OnDone = Callable[[Job, dict[str, Any]], None]


class Harness:
    """Carries out a plan. `on_start` and `on_done` are called around each process, `on_round` after each round."""

    def __init__(
        self,
        plan: Plan,
        out: Path,
        on_start: Callable[[Job], None] = lambda _: None,
        on_done: OnDone = lambda *_: None,
        on_round: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan, self.on_start, self.on_done, self.on_round = plan, on_start, on_done, on_round
        self.journal = Journal(journal_path(out), plan.identity(), describe_machine())
        self._begin = monotonic()
        self._spent_before = self.journal.seconds

    def run(self) -> None:
        """Everything that is not in the journal yet, until the budget is used up."""
        settings = self.plan.settings
        for job in self._once():
            self._do(job)
        self.on_round()
        for number, jobs in enumerate(self._rounds()):
            if number and not self._fits(self._expected(jobs) + self._reserved()):
                continue  # a shorter one may still fit
            for job in jobs:
                self._do(job)
            self.on_round()
        for job in self._last():
            if self._fits(settings.sustained_seconds if job.task == "sustained" else 0.0):
                self._do(job)
        self.on_round()

    def alive(self, row: Configuration) -> bool:
        """Whether it can be measured: it exists, and no run of its main task failed so far."""
        return not row.unavailable and all(e["status"] == "measured" for e in self.journal.of(row.name, "single"))

    def _do(self, job: Job) -> None:
        row = next((row for row in self.plan.rows if row.name == job.row), None)
        if job.key in self.journal.entries or (row is not None and not self.alive(row)):
            return
        self.on_start(job)
        before = machine_state()
        outcome = run_job(job.arguments, self.plan.limits)
        self.on_done(job, self.journal.add(job, outcome, before))

    def _once(self) -> Iterator[Job]:
        """For a profile the machine's ceilings; the references' masks, and every row's."""
        if self.plan.settings.profile:
            yield Job("", "ceilings", 0, self._arguments("ceilings", "", "", 0, _most_threads(self.plan)))
        seen = set()
        for row in self._measurable():
            reference = reference_of(row, self.plan.reference)
            if reference["row"] not in seen:
                seen.add(reference["row"])
                path, runtime, size = reference["path"], reference["runtime"], reference["size_px"]
                arguments = self._arguments("quality", path, runtime, size, _most_threads(self.plan))
                yield Job(reference["row"], "quality", 0, arguments | {"expected_sha256": reference["sha256"]})
            yield self._job(row, "quality", 0)

    def _rounds(self) -> list[list[Job]]:
        """A B C in one round, C B A in the next.

        The long scenarios have their further rounds at the end: whatever ends the run, every scenario has a figure, and
        a time box leaves out what weighs least in a comparison.
        """
        settings = self.plan.settings
        singles = [self._round(number, ("single",)) for number in range(settings.rounds)]
        long = [task for task in ("multi", "everything") if task in settings.scenarios]
        if not long:
            return singles
        first = self._round(0, ("single", *long))
        further = range(1, min(settings.rounds, settings.scenario_rounds))
        return [first, *singles[1:], *(self._round(number, long) for number in further)]

    def _round(self, number: int, tasks: Sequence[str]) -> list[Job]:
        rows = [row for row in self.plan.rows if not row.unavailable]
        return [
            self._job(row, task, number)
            for row in (rows if number % 2 == 0 else reversed(rows))
            for task in tasks
            if task == "single" or not row.null
        ]

    def _expected(self, jobs: list[Job]) -> float:
        """Seconds that jobs will take, by the longest of their kind so far."""
        return float(sum(max((e["seconds"] for e in self.journal.of(j.row, j.task)), default=0.0) for j in jobs))

    def _last(self) -> Iterator[Job]:
        for row in self._measurable():
            if self.plan.settings.profile:
                yield self._job(row, "profile", 0)
        for row in self._measurable():
            if "sustained" in self.plan.settings.scenarios:
                yield self._job(row, "sustained", 0)

    def _measurable(self) -> list[Configuration]:
        return [row for row in self.plan.configurations if not row.unavailable]

    def _job(self, row: Configuration, task: str, number: int) -> Job:
        return Job(row.name, task, number, self._arguments(task, row.path, row.runtime, row.size_px, row.threads))

    def _arguments(self, task: str, path: str, runtime: str, size_px: int, threads: int) -> dict[str, Any]:
        settings = self.plan.settings
        shared = {"task": task, "path": path, "runtime": runtime, "size_px": size_px, "threads": threads}
        return shared | asdict(settings) | {"seconds": settings.sustained_seconds}

    def _fits(self, seconds: float) -> bool:
        spent = self._spent_before + monotonic() - self._begin
        return not self.plan.budget_seconds or spent + seconds <= self.plan.budget_seconds

    def _reserved(self) -> float:
        """What is to come after the rounds."""
        settings, rows = self.plan.settings, len(self._measurable())
        sustained = settings.sustained_seconds + 2 if "sustained" in settings.scenarios else 0.0
        return rows * (sustained + (6 if settings.profile else 0))


def journal_path(out: Path) -> Path:
    return out.with_suffix(".rounds.jsonl")


def reference_of(row: Configuration, named: str) -> dict[str, Any]:
    """What a row's masks are compared with: what the user named, or the same model in float32 torch.

    `sha256`: of the checkpoint that it must be made of, "" for any. `name` is for people; `row`, its name in the
    journal, ends in a hash of all the rest, because two references of one name are not yet the same.
    """
    if named:
        checkpoint = Path(named).suffix.lower() in CHECKPOINT_SUFFIXES
        found = {"path": named, "runtime": "torch" if checkpoint else AUTO, "size_px": 0, "sha256": ""}
    elif row.runtime == "torch":
        found = {"path": row.path, "runtime": "torch", "size_px": row.size_px, "sha256": ""}
    else:
        folder = ASSETS / row.path if (ASSETS / row.path).is_dir() else Path(row.path)
        try:
            manifest = open_artifact(folder).manifest
        except ArtifactError:  # the row itself says so
            found = {"path": row.path, "runtime": "torch", "size_px": 0, "sha256": ""}
        else:
            path = manifest.name
            found = {"path": path, "runtime": "torch", "size_px": row.size_px, "sha256": manifest.checkpoint_sha256}
    size = f" {found['size_px']} px" if found["size_px"] else ""
    name = f"{Path(str(found['path'])).name} {found['runtime']}{size}"
    key = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:8]
    return found | {"name": name, "row": f"reference: {name} {key}"}


def _most_threads(plan: Plan) -> int:
    return max((row.threads for row in plan.configurations), default=0)


def loaded_files(path: str, runtime: str) -> list[dict[str, Any]]:
    """`model_files` of what a runtime loads of a name or path; none where it cannot: its process will say why."""
    try:
        return model_files(loaded_path(path, runtime))
    except (OSError, SamEdgeError):
        return []
