"""One checkpoint to certified artifacts: convert, load through the target's runtime, compare masks, then write.

    DIR/nano-512-onnx-int8/    a folder an artifact, named by model, input side, target and precision

The float32 reference is evaluated once a run; every artifact is compared with it. An artifact that misses a bound is
not written, or with `allow_fail` under a name that ends in `.failed`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from sam_edge.artifact import CERTIFICATE_NAME, GOLDEN_NAME, Artifact, write_artifact
from sam_edge.contract import Runtime
from sam_edge.errors import ExportError, OutputError
from sam_edge.evaluate.dataset import drawn_evenly, open_records
from sam_edge.evaluate.parity import compare_evaluations, measure, output_errors
from sam_edge.evaluate.protocol import Evaluation
from sam_edge.evaluate.provenance import data_sha256, file_sha256
from sam_edge.export.certificate import Speed, certificate, to_bytes
from sam_edge.export.golden_photos import golden_photos
from sam_edge.export.plan import Exported, Plan, Sizes
from sam_edge.export.targets import Target, find_target
from sam_edge.export.units import units
from sam_edge.golden_vectors import GoldenPhoto, compare, embedding_difference, pack
from sam_edge.image import preprocess
from sam_edge.manifest import EMBEDDING_TOLERANCE, Manifest
from sam_edge.manifest_json import MAX_TOLERANCE
from sam_edge.model.checkpoints import checkpoint_path, load_model
from sam_edge.model.sam import Sam
from sam_edge.prompts import build_prompts
from sam_edge.quantize.calibrate import Calibration, check_apart, read_calibration
from sam_edge.quantize.recipe import PRECISIONS, Recipe
from sam_edge.quantize.search import Measured, groups_of, search
from sam_edge.runtimes import ASSETS, load_to_verify
from sam_edge.runtimes.with_torch import TorchRuntime

__all__ = ["FAILED_SUFFIX", "Exporter", "Request", "Row"]

PHOTOS = ASSETS / "photos"
FAILED_SUFFIX = ".failed"
PHOTO_SUFFIX = "-photo"
TOOLS = ("sam-edge", "numpy", "torch")
TOLERANCE_ROOM = 1.5  # other CPUs sum in another order, and int8 instructions differ in how they saturate
SPEED_ROUNDS = 9
MAX_OUTPUT_PHOTOS = 8  # for the largest error of each tensor


@dataclass(frozen=True)
class Request:
    """What to export. `data`: labelled photos for the certificate, the bundled ones when empty; at most `photos` of
    them (0: all), drawn evenly. `recipes` by (target, precision). `sizes` are TFLite's. `photo_input`: encoders
    that take the photo itself, for targets.PHOTO_INPUT. `licence` and `training_data` are the manifest's."""

    model: str
    out: Path
    image_size: int | None = None
    calibrate: Path | None = None
    calibration_photos: int = 32
    data: tuple[Path, ...] = ()
    photos: int = 0
    threads: int = 2
    allow_fail: bool = False
    measure_speed: bool = True
    recipes: Mapping[tuple[str, str], Recipe] = field(default_factory=dict)
    sizes: Sizes = Sizes()
    photo_input: bool = False
    licence: str = "that of the checkpoint"
    training_data: str = "that of the checkpoint"
    command: str = ""
    folder_name: str = ""


@dataclass(frozen=True)
class Row:
    """One artifact, or the attempt: `path` is "" where nothing was kept, `stage` the last one that was reached."""

    target: str
    precision: str
    stage: str
    path: str
    bytes: int
    seconds: float
    certificate: dict[str, Any]

    @property
    def passed(self) -> bool:
        return bool(self.certificate.get("passed"))

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "seconds": round(self.seconds, 3), "passed": self.passed}


@dataclass(frozen=True)
class Certified:
    """A draft's certificate, and how far its embeddings lie from the golden ones, in standard deviations of those."""

    certificate: dict[str, Any]
    embedding_difference: float

    @property
    def passed(self) -> bool:
        return bool(self.certificate["passed"])


Progress = Callable[[str, str, str], None]  # target, precision, stage


class Exporter:
    """The model, its reference evaluation and its calibration photos, once for all targets of a run.

    Raises CheckpointError, DataError, ImageError, ExportError.
    """

    def __init__(self, request: Request, progress: Progress = lambda *_: None) -> None:
        self.request, self.progress = request, progress
        self.model: Sam = load_model(request.model, image_size=request.image_size).eval()
        self.checkpoint_sha256 = file_sha256(checkpoint_path(request.model))
        self.data_paths = request.data or (PHOTOS,)
        self.records = drawn_evenly(open_records(self.data_paths), request.photos)
        self.reference = TorchRuntime(self.model, request.threads)
        self.golden = golden_photos(self.reference, [record.photo() for record in open_records([PHOTOS])])
        self._evaluation: Evaluation | None = None
        self._calibration: Calibration | None = None
        self._fp32: dict[str, Artifact] = {}
        self._scratch = tempfile.TemporaryDirectory(prefix="sam_edge_export_")

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    @property
    def calibration(self) -> Calibration:
        """Raises DataError where there is none, or where a photo also judges the result."""
        if self._calibration is None:
            if self.request.calibrate is None:
                raise ExportError(
                    "int8 needs photos to calibrate on: give a folder of photos like those the model will see with "
                    "--calibrate DIR (16 to 64 are enough; not the photos it is judged by)."
                )
            self._calibration = read_calibration(
                self.request.calibrate, self.model.spec, self.request.calibration_photos, self.records
            )
        return self._calibration

    def export(self, target_name: str, precision: str) -> Row:
        """Convert, certify and write one artifact. Raises ExportError for a conversion that is impossible, and unless
        `allow_fail` for one whose masks miss a bound."""
        start = time.perf_counter()
        target = find_target(target_name)
        target.check(precision)
        recipe = self.request.recipes.get((target.name, precision)) or Recipe(target.name, precision)
        draft = self.draft(target, recipe)
        self.progress(target.name, precision, "certify")
        found = self.certify(target, draft)
        seconds = time.perf_counter() - start
        row = Row(target.name, precision, "certify", "", draft.size_bytes, seconds, found.certificate)
        if not row.passed and not self.request.allow_fail:
            return row
        self.progress(target.name, precision, "write")
        artifact = self._write(draft, found)
        return replace(
            row,
            stage="done",
            path=str(artifact.directory),
            bytes=artifact.size_bytes,
            seconds=time.perf_counter() - start,
        )

    def search(
        self,
        target_name: str,
        folder: Path,
        goal: float = 0.995,
        on_measured: Callable[[int, int], None] = lambda done, most: None,
    ) -> Recipe:
        """The recipe of a static int8 export: which units stay float, found on the labelled photos of `folder`.

        `goal`: the retention that each prompt kind must reach there, a little more than the certificate asks. Raises
        DataError, also for a photo that is among those the certificate is measured on, and ExportError.
        """
        target = find_target(target_name)
        target.check("int8")
        records = open_records([folder])
        check_apart(records, self.records, str(folder))
        reference = measure(self.reference, records)

        def measured(float_units: frozenset[str]) -> Measured:
            draft = self.draft(target, Recipe(target.name, "int8", tuple(sorted(float_units))))
            kinds = compare_evaluations(reference, measure(load_to_verify(draft, self.request.threads), records))
            return Measured(
                {kind: parity.retention for kind, parity in kinds.items()},
                {kind: parity.mask_iou_mean for kind, parity in kinds.items()},
            )

        self.progress(target.name, "int8", "search")
        found = search(groups_of(units(self.model)), measured, goal, on_measured=on_measured)
        return Recipe(target.name, "int8", found.float_units, found.why() | {"goal": goal, "photos": len(records)})

    def draft(self, target: Target, recipe: Recipe) -> Artifact:
        """A folder under a temporary name, loadable, without certificate."""
        if recipe.precision == "fp32" and target.name in self._fp32:
            return self._fp32[target.name]
        self.progress(target.name, recipe.precision, "convert")
        images = self.calibration.images if recipe.precision == "int8" else ()
        exported = target.export(self.model, Plan(recipe, images, self.request.sizes, self.request.photo_input))
        folder = Path(self._scratch.name) / f"{target.name}-{recipe.precision}-{time.monotonic_ns()}"
        files = exported.files | {GOLDEN_NAME: pack(self.golden)}
        draft = write_artifact(folder, self._manifest(target, recipe, exported), files)
        if recipe.precision == "fp32":
            self._fp32[target.name] = draft
        return draft

    def certify(self, target: Target, draft: Artifact) -> Certified:
        """What a draft's files do when the target's runtime computes them."""
        precision = draft.manifest.recipe["precision"]
        runtime = load_to_verify(draft, self.request.threads)
        kinds = compare_evaluations(self.reference_evaluation, measure(runtime, self.records))
        errors = output_errors(self.reference, runtime, self.records[:MAX_OUTPUT_PHOTOS])
        found = certificate(
            precision=precision,
            kinds=kinds,
            outputs=errors,
            speed=self._speed(target, runtime, precision),
            data=self._data(),
            reference={"runtime": self.reference.name, "checkpoint_sha256": self.checkpoint_sha256},
            runtime=runtime.name,
            golden=compare(runtime, self.golden),
        )
        return Certified(found, embedding_difference(runtime, self.golden))

    @property
    def reference_evaluation(self) -> Evaluation:
        if self._evaluation is None:
            self.progress("torch", "fp32", "reference masks")
            self._evaluation = measure(self.reference, self.records)
        return self._evaluation

    def _speed(self, target: Target, runtime: Runtime, precision: str) -> Speed | None:
        if not self.request.measure_speed or runtime.name != target.name:  # an interpreter's time says nothing
            return None
        slow = runtime
        if precision != "fp32":
            slow = load_to_verify(self.draft(target, Recipe(target.name, "fp32")), self.request.threads)
        return measure_speed(slow, runtime, self.golden[0], self.request.threads)

    def _data(self) -> dict[str, Any]:
        bundled = not self.request.data
        return {
            "name": "bundled photos" if bundled else ", ".join(path.name for path in self.data_paths),
            "bundled": bundled,
            "sha256": data_sha256(self.data_paths),
            "photos": len(self.records),
        }

    def _write(self, draft: Artifact, found: Certified) -> Artifact:
        spec, precision = draft.manifest.spec, draft.manifest.recipe["precision"]
        name = self.request.folder_name or f"{spec.name}-{spec.image_size}-{draft.manifest.target}-{precision}"
        if spec.photo_input:
            name += PHOTO_SUFFIX
        if not found.passed:
            name += FAILED_SUFFIX
        manifest = replace(
            draft.manifest,
            embedding_tolerance=_tolerance(found.embedding_difference),
            quality={} if found.passed else {"certificate_passed": 0},
        )
        files = {path: draft.read_file(path) for path in draft.manifest.files}
        files[CERTIFICATE_NAME] = to_bytes(found.certificate)

        def check(written: Artifact) -> None:
            load_to_verify(written, self.request.threads, canary=True)

        try:
            self.request.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self.request.out} cannot be made ({error.strerror}). Choose another folder."
            ) from error
        return write_artifact(self.request.out / name, manifest, files, check)

    def _manifest(self, target: Target, recipe: Recipe, exported: Exported) -> Manifest:
        computed, stored, _ = PRECISIONS[recipe.precision]
        return Manifest(
            name=self.model.spec.name,
            spec=replace(self.model.spec, photo_input=self.request.photo_input),
            config=self.model.config.to_dict(),
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            checkpoint_sha256=self.checkpoint_sha256,
            target=target.name,
            precision=exported.computed or computed,
            weights_stored=stored,
            recipe=recipe.to_dict(),
            graphs={},
            files={},
            tool_versions=_versions((*TOOLS, *exported.tools)),
            licence=self.request.licence,
            training_data=self.request.training_data,
            command=self.request.command,
            fixed_sizes=exported.fixed_sizes,
            embedding_tolerance=MAX_TOLERANCE,
        )


def measure_speed(baseline: Runtime, runtime: Runtime, golden: GoldenPhoto, threads: int) -> Speed:
    """Medians over alternating runs of both, so that a busy machine disturbs them alike."""
    image, _ = preprocess(golden.image, runtime.spec)
    click = build_prompts(
        runtime.spec, golden.image.shape[:2], point_coords=np.array([[[20.0, 20.0]]]), point_labels=np.ones((1, 1))
    )
    embedding = runtime.encode(image)
    baseline.encode(image)
    runtime.decode(embedding, click)
    ours, theirs, clicks = [], [], []
    for _ in range(SPEED_ROUNDS):
        theirs.append(_seconds(lambda: baseline.encode(image)))
        ours.append(_seconds(lambda: runtime.encode(image)))
        clicks.append(_seconds(lambda: runtime.decode(embedding, click)))
    ratio = float(np.median(np.array(theirs) / np.array(ours)))
    encode, slow, decode = (1000 * float(np.median(times)) for times in (ours, theirs, clicks))
    return Speed(threads, encode, decode, slow, ratio)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _tolerance(measured: float) -> float:
    if not measured * TOLERANCE_ROOM <= MAX_TOLERANCE:
        raise ExportError(
            f"the embeddings differ from the reference's by {measured:.3g} standard deviations, expected at most "
            f"{MAX_TOLERANCE / TOLERANCE_ROOM:.3g}: the files do not compute this model. Export with another precision."
        )
    return max(EMBEDDING_TOLERANCE, float(f"{measured * TOLERANCE_ROOM:.3g}"))


def _versions(tools: Sequence[str]) -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for tool in tools:
        try:
            found[tool] = version(tool)
        except PackageNotFoundError:  # run from a checkout that is not installed
            found[tool] = "unknown"
    return found
