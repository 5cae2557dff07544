"""Certificates as records: what each exported artifact is, how right its masks are, how long it takes.

`python -m sam_edge.benchmarks.formats out/* -o benchmarks/results/nano-export.jsonl` reads folders that `sam-edge
export` wrote, the failed ones too, and appends one JSON line each. `cards.py` makes README's table of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from sam_edge.artifact import CERTIFICATE_NAME, open_artifact
from sam_edge.benchmarks.machine import describe_machine
from sam_edge.files import write_bytes_atomically

__all__ = ["SCHEMA", "newest", "record", "table"]

SCHEMA = "sam-edge/export/2"
KINDS = {"box": "box", "click": "click", "click3": "click3", "mask": "mask input"}


def record(directory: Path) -> dict[str, Any]:
    """One artifact folder's line. Raises ArtifactError."""
    artifact = open_artifact(directory)
    manifest = artifact.manifest
    return {
        "schema": SCHEMA,
        "command": manifest.command,
        "model": manifest.name,
        "image_size_px": manifest.spec.image_size,
        "parameters": manifest.parameters,
        "checkpoint_sha256": manifest.checkpoint_sha256,
        "target": manifest.target,
        "precision": manifest.recipe["precision"],
        "float_units": len(manifest.recipe.get("float_units", ())),
        "computed_in": manifest.precision,
        "bytes": artifact.size_bytes,
        "tool_versions": manifest.tool_versions,
        "machine": describe_machine(),
        "certificate": json.loads(artifact.read_file(CERTIFICATE_NAME)),
    }


def newest(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last record of each model, size, target and precision, in the order of the table.

    Of a model whose weights were replaced only the last weights' are shown: figures of two do not belong in one table.
    """
    weights = {line["model"]: line["checkpoint_sha256"] for line in records}
    found = {_key(line): line for line in records if line["checkpoint_sha256"] == weights[line["model"]]}
    return [found[key] for key in sorted(found)]


def _key(line: dict[str, Any]) -> tuple[str, int, str, str]:
    return line["model"], line["image_size_px"], line["target"], line["precision"]


def table(records: list[dict[str, Any]], measured: Sequence[dict[str, Any]] = ()) -> str:
    """Markdown: format x precision x bytes x mask IoU by prompt kind x latency.

    measured: records of `sam-edge bench`; the last one of a format, precision and input side gives its latency.
    """
    head = ["format", "precision", "MB", *KINDS.values(), "prompts", "least retained", "encode", "click", "certificate"]
    lines = [f"| {' | '.join(head)} |", f"|---|---|{'---:|' * (len(head) - 3)}---|"]
    stages = {_measured_key(line): line["stages"] for line in measured if "stages" in line and not line.get("null_of")}
    lines += [f"| {' | '.join(_cells(line, stages.get(_key(line)[1:])))} |" for line in records]
    return "\n".join(lines)


def _measured_key(line: dict[str, Any]) -> tuple[int, str, str]:
    chosen = line["configuration"]
    return line["image_size_px"], chosen["runtime"], chosen["precision"]


def _cells(line: dict[str, Any], stages: dict[str, Any] | None) -> list[str]:
    found = line["certificate"]
    kinds = found["kinds"]
    retained = [kind["retention"] for kind in kinds.values()]  # null: the reference itself met no object
    names = ("encode", "click")
    times = [f"{stages[name]['p50_ms']:.1f} ms" for name in names] if stages else ["not measured yet"] * len(names)
    return [
        line["target"],
        line["precision"],
        f"{line['bytes'] / 1e6:.1f}",
        *(f"{kinds[kind]['mask_iou_mean']:.4f}" for kind in KINDS),
        str(sum(kind["prompts"] for kind in kinds.values())),
        "no number" if None in retained else f"{100 * min(retained):.1f} %",
        *times,
        "passed" if found["passed"] else "missed",
    ]


@click.command()
@click.argument("directories", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("-o", "out", type=click.Path(path_type=Path), required=True, help="JSON lines to append to.")
def main(directories: tuple[Path, ...], out: Path) -> None:
    """Append the certificates of artifact folders as records."""
    lines = [record(directory) for directory in directories]
    before = out.read_text(encoding="utf-8") if out.exists() else ""
    added = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    write_bytes_atomically(out, (before + added).encode())
    click.echo(table(newest(lines)))


if __name__ == "__main__":
    main()
