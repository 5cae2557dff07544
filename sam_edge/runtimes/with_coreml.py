"""Core ML: Apple's runtime on macOS 14 and newer, and a check of the same files on every other system.

`CoreMLRuntime` serves, through coremltools, by which Python reaches Core ML. `CoreMLVerifier` computes a package's
program in NumPy (mil_interpreter.py): too slow to serve with, but its masks tell what the file says, so that
certificates can be measured where the file was made.
"""

from __future__ import annotations

import abc
import importlib.util
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from sam_edge.artifact import Artifact, open_artifact
from sam_edge.contract import (
    PREDICTION_OUTPUTS,
    Embedding,
    Float32,
    ModelSpec,
    Prediction,
    PromptTensors,
)
from sam_edge.coreml_check import SUFFIX, read_package
from sam_edge.errors import ArtifactError, PromptError, RuntimeUnavailable, first_line
from sam_edge.golden_vectors import check_embeddings
from sam_edge.manifest import POINTS, contract_tensors
from sam_edge.mil_program import Program
from sam_edge.runtimes.feeds import check_target, decode_in_parts, decoder_feeds, encoder_feeds
from sam_edge.runtimes.mil_interpreter import Interpreter

__all__ = ["COMPUTE_UNITS", "CoreMLRuntime", "CoreMLVerifier", "load", "verifier"]

TARGET = "coreml"
COMPUTED = ("float32", "float16", "int8")  # said operator by operator in the file, not chosen here
MACOS = 14  # the packages' ML Programs need it
# Which processors Core ML may use. None of them changes the precision: each operator's is written in the file.
COMPUTE_UNITS = ("ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY")

Compute: TypeAlias = Callable[[dict[str, Float32]], dict[str, Float32]]  # arrays by name, in and out


class _Packages(abc.ABC):
    """What both share: `contract.Runtime` over two functions from named arrays to named arrays."""

    name = "coreml"

    def __init__(self, artifact: Artifact, canary: bool) -> None:
        self.manifest = manifest = artifact.manifest
        check_target(artifact, TARGET, COMPUTED)
        self._files = artifact.read_graphs()  # all of them, before one runs
        self._programs = {name: read_package(self._files, name + SUFFIX) for name in contract_tensors(manifest.spec)}
        self._max_points = self._programs["decoder"].largest.get(POINTS, 0)
        self._encoder, self._decoder = (self._load(artifact, name) for name in self._programs)
        if canary:
            check_embeddings(self, artifact.read_golden(), manifest.embedding_tolerance)

    @abc.abstractmethod
    def _load(self, artifact: Artifact, name: str) -> Compute:
        """What computes the graph `name`. Raises ArtifactError."""

    @property
    def spec(self) -> ModelSpec:
        return self.manifest.spec

    def encode(self, image: Float32) -> Embedding:
        found = self._encoder(encoder_feeds(self.spec, image))
        image_embeddings, *high_res_features = (found[name] for name in self._programs["encoder"].outputs)
        return Embedding(image_embeddings, tuple(high_res_features))

    def decode(self, embedding: Embedding, prompts: PromptTensors) -> Prediction:
        feeds = decoder_feeds(self.spec, embedding, prompts)
        points = prompts.point_labels.shape[1]
        if points > self._max_points:
            raise PromptError(
                f"a prompt has {points} points, but this Core ML file takes {self._max_points} at most. "
                "Give fewer points."
            )

        def run(few: dict[str, Float32]) -> list[Float32]:
            found = self._decoder(few)
            return [found[name] for name in PREDICTION_OUTPUTS]

        return decode_in_parts(feeds, run)  # the files take at least as many prompts at once


class CoreMLRuntime(_Packages):
    """`contract.Runtime` over an artifact, computed by Core ML. compute_units: one of COMPUTE_UNITS.

    `canary` runs the artifact's golden photos through the encoder first (two encodes), see `check_embeddings`.
    Raises RuntimeUnavailable away from macOS or without coremltools, ArtifactError for a folder that is not whole.
    """

    def __init__(self, artifact: Artifact, *, canary: bool = True, compute_units: str = "ALL") -> None:
        _check_system()
        if compute_units not in COMPUTE_UNITS:
            raise RuntimeUnavailable(
                f"compute_units is {compute_units!r:.40}, expected one of: {', '.join(COMPUTE_UNITS)}."
            )
        self._units = compute_units
        # Core ML takes a folder. Written from the bytes that were checked, not those that lie in the artifact by now,
        # and kept as long as the runtime: Core ML may compile from it again.
        self._scratch = tempfile.TemporaryDirectory(prefix="sam-edge-coreml-")
        super().__init__(artifact, canary)

    def _load(self, artifact: Artifact, name: str) -> Compute:
        ct = _coremltools()
        package = Path(self._scratch.name) / (name + SUFFIX)
        for path, data in self._files.items():
            if path.startswith(f"{package.name}/"):
                file = package.parent / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
        try:
            model = ct.models.MLModel(str(package), compute_units=ct.ComputeUnit[self._units])
        except Exception as error:  # coremltools wraps Core ML's errors in whatever fits
            raise ArtifactError(
                f"Core ML cannot load the {name} of {artifact.directory} ({_line(error)}). "
                "Update macOS, or export the model again."
            ) from error

        def compute(feeds: dict[str, Float32]) -> dict[str, Float32]:
            return {key: np.asarray(value, np.float32) for key, value in model.predict(feeds).items()}

        return compute


class CoreMLVerifier(_Packages):
    """`contract.Runtime` over the same artifact, computed in NumPy on any system: about a second a photo with nano.

    It needs neither Core ML nor coremltools. Half precision is imitated by rounding what the file types so; what a
    device adds in half precision inside an operator is not. Raises ArtifactError.
    """

    name = "coreml-interpreter"

    def __init__(self, artifact: Artifact, *, canary: bool = True) -> None:
        super().__init__(artifact, canary)

    def _load(self, artifact: Artifact, name: str) -> Compute:
        program: Program = self._programs[name]
        try:
            interpreter = Interpreter(program)
        except Exception as error:  # NumPy raises what a wrong parameter leads to
            raise _wrong_program(artifact, name, error) from error

        def compute(feeds: dict[str, Float32]) -> dict[str, Float32]:
            try:
                return dict(zip(program.outputs, interpreter.run(feeds), strict=True))
            except Exception as error:
                raise _wrong_program(artifact, name, error) from error

        return compute


def load(directory: str | Path, threads: int = 0, *, canary: bool = True, compute_units: str = "ALL") -> CoreMLRuntime:
    """A runtime for an artifact folder; see CoreMLRuntime for what it raises. threads: Core ML chooses its own."""
    return CoreMLRuntime(open_artifact(directory), canary=canary, compute_units=compute_units)


def verifier(artifact: Artifact, threads: int = 0, *, canary: bool = True) -> CoreMLRuntime | CoreMLVerifier:
    """What can compute the artifact here: Core ML where it is, NumPy everywhere else. Raises ArtifactError."""
    return CoreMLRuntime(artifact, canary=canary) if _is_here() else CoreMLVerifier(artifact, canary=canary)


def _is_here() -> bool:
    return sys.platform == "darwin" and importlib.util.find_spec("coremltools") is not None


def _check_system() -> None:
    if sys.platform != "darwin":
        raise RuntimeUnavailable(
            f"Core ML runs on macOS {MACOS} or newer, and this is {sys.platform}. Load the artifact on a Mac; here, "
            "`sam-edge verify` can still check it, and an ONNX artifact can serve."
        )
    version = platform.mac_ver()[0]
    if version and int(version.partition(".")[0]) < MACOS:
        raise RuntimeUnavailable(f"macOS is {version}, expected {MACOS} or newer. Update it, or use an ONNX artifact.")


def _coremltools() -> Any:
    try:
        import coremltools
    except ImportError as error:
        raise RuntimeUnavailable(
            f"coremltools cannot be imported ({error}), and Core ML is reached through it. Install it with: "
            "pip install coremltools"
        ) from error
    return coremltools


def _wrong_program(artifact: Artifact, name: str, error: Exception) -> ArtifactError:
    where = f"the {name} of {artifact.directory} cannot be computed"
    if isinstance(error, ArtifactError):  # says itself what to do
        return ArtifactError(f"{where}: {error}")
    return ArtifactError(f"{where} ({_line(error)}). Export the model again.")


def _line(error: Exception) -> str:
    return first_line(error)
