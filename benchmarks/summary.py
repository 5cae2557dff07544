"""From a run's journal to its records: one a row, complete at any time, with what was measured so far."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sam_edge.benchmarks.harness import PROTOCOL_ROUNDS, Journal, Plan, loaded_files, reference_of
from sam_edge.benchmarks.masks import BUNDLED_PHOTOS, compare_masks, worst_masks
from sam_edge.benchmarks.matrix import Configuration
from sam_edge.benchmarks.records import MEASURED, SCHEMA, Record
from sam_edge.benchmarks.timing import summarise
from sam_edge.evaluate.protocol import PROTOCOL_VERSION
from sam_edge.evaluate.provenance import data_sha256, device_files, files_sha256, source_commit

__all__ = ["Summary"]

Entry = dict[str, Any]


class Summary:
    """Builds records; hashes of data and files are taken once."""

    def __init__(self, plan: Plan, journal: Journal) -> None:
        self.plan, self.journal = plan, journal
        commit = source_commit()
        self._head = {
            "schema": SCHEMA,
            "protocol_version": PROTOCOL_VERSION,
            "command": plan.command,
            **({"commit": commit} if commit else {}),
        }
        paths = [Path(path) for path in plan.settings.data]
        names = ["the bundled photos" if path == BUNDLED_PHOTOS else path.name for path in paths]
        self._data = {"name": ", ".join(names), "sha256": data_sha256(paths)}
        self._files: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._quality: dict[str, dict[str, Any]] = {}

    def records(self) -> list[Record]:
        """In the order of the matrix."""
        return [self._record(row) for row in self.plan.rows]

    def _record(self, row: Configuration) -> Record:
        rounds = self.journal.of(row.name, "single")
        measured = [entry for entry in rounds if entry["status"] == MEASURED]
        failed = next((entry for entry in rounds if entry["status"] != MEASURED), None)
        settings = self.plan.settings
        record: Record = {
            **self._head,
            "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "run": {
                "rounds_wanted": settings.rounds,
                "rounds_done": len(measured),
                "quick": len(measured) < PROTOCOL_ROUNDS,
                "min_iterations": settings.min_iterations,
                "min_seconds": settings.min_seconds,
            },
            "configuration": row.to_dict(),
            **_status(row, failed, bool(measured)),
            "machine": self.journal.machine,
        }
        if row.null:
            record["null_of"] = row.name.removesuffix(" (again)")
        if not row.unavailable:
            record["artifact"] = self._artifact(row)
        if measured:
            record |= _latency(measured) | self._scenarios(row) | self._ceilings()
            record["rounds"] = [_state(entry) for entry in measured]
        if not row.unavailable and not row.null:
            record |= self._quality_of(row) | self._profile(row)
        return record

    def _artifact(self, row: Configuration) -> dict[str, Any]:
        """The model's own files: what a device would have to hold."""
        files = self._device_files(row.path, row.runtime)
        return {"files": files, "bytes": sum(file["bytes"] for file in files)} if files else {}

    def _device_files(self, path: str, runtime: str) -> list[dict[str, Any]]:
        key = path, runtime
        if key not in self._files:
            self._files[key] = device_files(loaded_files(path, runtime))
        return self._files[key]

    def _scenarios(self, row: Configuration) -> dict[str, Any]:
        scenarios: dict[str, Any] = {}
        for task in ("multi", "everything"):
            entries = self.journal.of(row.name, task)
            done = [entry["result"] for entry in entries if entry["status"] == MEASURED]
            for stage in done[0]["samples_ms"] if done else ():
                scenarios[stage] = summarise([result["samples_ms"][stage] for result in done])
                scenarios[stage] |= {"peak_memory_bytes": _peak(done)} if _peak(done) else {}
                scenarios[stage] |= {"masks": done[0]["masks"]} if "masks" in done[0] else {}
            failed = [entry for entry in entries if entry["status"] != MEASURED]
            scenarios |= {task: _why(failed[0])} if failed else {}
        for entry in self.journal.of(row.name, "sustained"):
            result = entry["result"]
            scenarios["sustained"] = {"windows": result["windows"]} if result else _why(entry)
        return {"scenarios": scenarios} if scenarios else {}

    def _quality_of(self, row: Configuration) -> dict[str, Any]:
        if row.name in self._quality:
            return self._quality[row.name]
        tested = next(iter(self.journal.of(row.name, "quality")), None)
        if tested is None:
            return {}
        if tested["status"] != MEASURED:
            return {"quality": _why(tested)}
        judge = reference_of(row, self.plan.reference)
        entry = next(iter(self.journal.of(judge["row"], "quality")), None)
        reference = entry["result"] if entry is not None and entry["status"] == MEASURED else None
        about = {"name": judge["name"]} | ({} if reference or not entry else _why(entry))
        about |= self._weights_of(judge) if reference else {}
        result = tested["result"]
        data = self._data | {"photos": len(result["photos"]), "ground_truth": result["truth"]}
        found: dict[str, Any] = {
            "quality": {"data": data, "reference": about, "kinds": compare_masks(reference, result)}
        }
        if reference is not None and self.plan.settings.pictures:
            found["worst"] = worst_masks(reference, result)
        self._quality[row.name] = found
        return found

    def _weights_of(self, judge: dict[str, Any]) -> dict[str, str]:
        """The reference's hash: its name alone does not say whether two runs had the same."""
        files = [] if judge["sha256"] else self._device_files(judge["path"], judge["runtime"])
        sha256 = judge["sha256"] or (files_sha256(files) if files else "")
        return {"sha256": sha256} if sha256 else {}

    def _profile(self, row: Configuration) -> dict[str, Any]:
        entry = next(iter(self.journal.of(row.name, "profile")), None)
        return {} if entry is None else {"profile": entry["result"] or _why(entry)}

    def _ceilings(self) -> dict[str, Any]:
        entry = next(iter(self.journal.of("", "ceilings")), None)
        return {"ceilings": entry["result"]} if entry is not None and entry["result"] else {}


def _status(row: Configuration, failed: Entry | None, measured: bool) -> dict[str, Any]:
    if row.unavailable:
        return {"status": "not available", "reason": row.unavailable}
    if failed is not None:
        return _why(failed)
    return {"status": MEASURED if measured else "not measured yet"}


def _why(entry: Entry) -> dict[str, Any]:
    found = {"status": entry["status"], "reason": entry["reason"]}
    return found | ({"stderr_tail": entry["stderr"]} if entry["stderr"] else {})


def _latency(entries: Sequence[Entry]) -> dict[str, Any]:
    results = [entry["result"] for entry in entries]
    before = [r["memory_before_load"]["peak_resident_bytes"] for r in results if r["memory_before_load"]]
    memory = {"before_load_bytes": max(before, default=0), "peak_bytes": _peak(results)}
    memory = {name: value for name, value in memory.items() if value}
    return {
        "photo": results[0]["photo"],
        "image_size_px": results[0]["image_size_px"],
        **({"photo_input": True} if results[0].get("photo_input") else {}),
        "load_ms": [round(result["load_ms"], 3) for result in results],
        "first_ms": [round(result["first_ms"], 3) for result in results],
        "stages": {
            stage: summarise([result["samples_ms"][stage] for result in results])
            | {"round_yardstick_ms": [round(result["yardstick_ms"][stage], 4) for result in results]}
            for stage in ("preprocess", "encode", "decode", "postprocess", "click", "end_to_end")
        },
        **({"memory": memory} if memory else {}),
    }


def _peak(results: Sequence[dict[str, Any]]) -> int:
    return max((result["memory_after"].get("peak_resident_bytes", 0) for result in results), default=0)


def _state(entry: Entry) -> dict[str, Any]:
    """The machine around one round."""
    return {
        "round": entry["round"],
        "seconds": round(entry["seconds"], 2),
        "before": entry["before"],
        "after": entry["after"],
    }
