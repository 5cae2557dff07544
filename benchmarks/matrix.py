"""From options to configurations: model x runtime x precision x size x threads, and what each of them loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from sam_edge.artifact import MANIFEST_NAME, Artifact, open_artifact
from sam_edge.errors import ArtifactError
from sam_edge.evaluate.provenance import file_sha256
from sam_edge.runtimes import ASSETS, AUTO, CHECKPOINT_SUFFIXES, PUBLIC_MODELS, RUNTIMES, packaged_names

__all__ = ["Configuration", "artifact_precision", "expand"]

TORCH_PRECISION = "fp32"


@dataclass(frozen=True)
class Configuration:
    """One row. `path` is what is loaded: a name, an artifact's folder or a checkpoint; `size_px` 0: the model's own.

    `unavailable` says why it cannot be measured here. `null`: the same again under a second name, for the noise.
    """

    model: str
    path: str
    runtime: str
    precision: str
    size_px: int
    threads: int
    unavailable: str = ""
    null: bool = False

    @property
    def name(self) -> str:
        """Unique within a run, and the same in another run of the same matrix."""
        size = f" {self.size_px} px" if self.size_px else ""
        again = " (again)" if self.null else ""
        return f"{self.model} {self.runtime} {self.precision}{size} {self.threads} threads{again}"

    def to_dict(self) -> dict[str, Any]:
        """As records have it: not the path, which only tells of this machine."""
        fields = {k: v for k, v in asdict(self).items() if k not in ("path", "unavailable", "null")}
        return {"name": self.name, **(fields if self.size_px else {k: v for k, v in fields.items() if k != "size_px"})}


def expand(
    models: Sequence[str],
    runtimes: Sequence[str],
    precisions: Sequence[str],
    sizes: Sequence[int],
    threads: Sequence[int],
    artifacts: Sequence[Path] = (),
) -> list[Configuration]:
    """All configurations; `runtimes` may hold "auto", empty precisions and sizes stand for all there are.

    A combination that a named model does not have becomes a row that says so. An artifact's folder has one runtime,
    precision and size, and becomes a row that says so where none of the given ones fits. Raises ArtifactError where a
    folder of `artifacts` does not exist.
    """
    exported = [found for folder in artifacts for found in _artifacts_in(folder)]
    rows: dict[tuple[Any, ...], Configuration] = {}
    for model in models:
        for count in threads:
            for row in _rows(model, runtimes, precisions, sizes, count, exported):
                rows.setdefault((row.path, row.runtime, row.precision, row.size_px, row.threads), row)
    return _with_unique_names(list(rows.values()))


def artifact_precision(artifact: Artifact) -> str:
    """fp32, fp16, int8 ...: the recipe's name, or what the files store where there is none."""
    stored = {"float32": "fp32", "float16": "fp16"}.get(
        artifact.manifest.weights_stored, artifact.manifest.weights_stored
    )
    return str(artifact.manifest.recipe.get("precision", stored))


def _rows(
    model: str,
    runtimes: Sequence[str],
    precisions: Sequence[str],
    sizes: Sequence[int],
    threads: int,
    exported: Sequence[Artifact],
) -> list[Configuration]:
    path = Path(model)
    if path.is_dir() and model not in packaged_names():
        return [_of_folder(model, runtimes, precisions, sizes, threads)]
    is_checkpoint = path.suffix.lower() in CHECKPOINT_SUFFIXES
    if is_checkpoint:
        found, known = _of_checkpoint(path, exported), path.is_file()
    else:
        packaged = [open_artifact(ASSETS / model)] if model in packaged_names() else []
        found = [*packaged, *(a for a in exported if a.manifest.name == model)]
        known = bool(found) or model in PUBLIC_MODELS
    label = path.stem if is_checkpoint else model
    if not known:
        why = f"there is no model {model!r}: no file or folder is called so, and no model has this name."
        return [Configuration(label, model, runtimes[0], _or_any(precisions), 0, threads, why)]
    return [
        row
        for runtime, precision, size in product(runtimes, precisions or ("",), sizes or (0,))
        for row in _of_name(model, label, runtime, precision, size, threads, found, is_checkpoint)
    ]


def _of_name(
    model: str,
    label: str,
    runtime: str,
    precision: str,
    size: int,
    threads: int,
    found: Sequence[Artifact],
    is_checkpoint: bool,
) -> list[Configuration]:
    """The rows of a name or a checkpoint under one runtime, precision and size; "" and 0 stand for any."""
    if runtime == AUTO:
        runtime = "torch" if is_checkpoint or not found else found[0].manifest.target
    shown = precision or (TORCH_PRECISION if runtime == "torch" else "any")
    if runtime not in RUNTIMES:
        why = f"runtime {runtime!r} is not known, expected one of: {', '.join((AUTO, *RUNTIMES))}."
        return [Configuration(label, model, runtime, shown, size, threads, why)]
    if runtime == "torch":
        why = "" if shown == TORCH_PRECISION else f"torch runs checkpoints in fp32, not in {shown}."
        return [Configuration(label, model, runtime, shown, size, threads, why)]
    fitting = [
        artifact
        for artifact in found
        if artifact.manifest.target == runtime
        and precision in ("", artifact_precision(artifact))
        and size in (0, artifact.manifest.spec.image_size)
    ]
    if not fitting:
        at = f" at {size} px" if size else ""
        asked = f"sam-edge export --model {model} --to {runtime} --precision {precision or 'fp32'}"
        why = (
            f"there is no {shown} {runtime} artifact of {label}{at}. Make one with: {asked}"
            f"{f' --size {size}' if size else ''} -o DIR, and give --artifacts DIR."
        )
        return [Configuration(label, model, runtime, shown, size, threads, why)]
    return [_of_artifact(artifact, label, str(artifact.directory), threads) for artifact in fitting]


def _of_folder(
    model: str, runtimes: Sequence[str], precisions: Sequence[str], sizes: Sequence[int], threads: int
) -> Configuration:
    try:
        artifact = open_artifact(model)
    except ArtifactError as error:
        return Configuration(Path(model).name, model, runtimes[0], _or_any(precisions), 0, threads, str(error))
    row = _of_artifact(artifact, artifact.manifest.name, model, threads)
    fits = (
        (row.runtime in runtimes or AUTO in runtimes)
        and (not precisions or row.precision in precisions)
        and (not sizes or row.size_px in sizes)
    )
    if fits:
        return row
    why = f"{model} is for {row.runtime} in {row.precision} at {row.size_px} px, which is not what was asked for."
    return Configuration(row.model, model, row.runtime, row.precision, row.size_px, threads, why)


def _of_artifact(artifact: Artifact, label: str, path: str, threads: int) -> Configuration:
    manifest = artifact.manifest
    return Configuration(label, path, manifest.target, artifact_precision(artifact), manifest.spec.image_size, threads)


def _of_checkpoint(path: Path, exported: Sequence[Artifact]) -> list[Artifact]:
    """The artifacts that were made from this very file."""
    if not exported or not path.is_file():
        return []
    sha256 = file_sha256(path)
    return [artifact for artifact in exported if artifact.manifest.checkpoint_sha256 == sha256]


def _artifacts_in(folder: Path) -> list[Artifact]:
    """The artifacts in a folder, or the folder itself; what `sam-edge export` kept in spite of a miss counts, too."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is no folder, expected what `sam-edge export -o DIR` wrote. Check the path.")
    folders = (
        [folder] if (folder / MANIFEST_NAME).is_file() else sorted(p.parent for p in folder.glob("*/manifest.json"))
    )
    return [open_artifact(found) for found in folders]


def _or_any(precisions: Sequence[str]) -> str:
    return precisions[0] if precisions else "any"


def _with_unique_names(rows: list[Configuration]) -> list[Configuration]:
    """Two artifacts of one model, runtime, precision and size: each then has its folder in its name, the whole path
    only where the folder's own name does not tell them apart: it says more of the machine than of the model."""
    same: dict[str, list[Configuration]] = {}
    for row in rows:
        same.setdefault(row.name, []).append(row)

    def told_apart(row: Configuration) -> Configuration:
        others = same[row.name]
        if len(others) == 1:
            return row
        short = {_folder_name(other.path) for other in others}
        where = _folder_name(row.path) if len(short) == len(others) else row.path
        return replace(row, model=f"{row.model} in {where}")

    return [told_apart(row) for row in rows]


def _folder_name(path: str) -> str:
    return "the package" if Path(path).parent == ASSETS else Path(path).name
