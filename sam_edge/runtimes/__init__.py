"""Runtimes: what computes `encode` and `decode`. One adapter a file; a library is imported when its runtime is loaded.

A new runtime is a file `with_<library>.py` with a `load(path, threads)`, an adapter in RUNTIMES and a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sam_edge.artifact import MANIFEST_NAME, Artifact, open_artifact
from sam_edge.contract import Runtime
from sam_edge.errors import ArtifactError, RuntimeUnavailable
from sam_edge.manifest import JsonDict

__all__ = [
    "AUTO",
    "RUNTIMES",
    "ModelInfo",
    "artifact_folder",
    "available_models",
    "load",
    "load_to_verify",
    "loaded_path",
    "packaged_names",
]

AUTO = "auto"
ASSETS = Path(__file__).parent.parent / "assets"
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")


class Verifier(Protocol):
    def __call__(self, artifact: Artifact, threads: int, *, canary: bool) -> Runtime: ...


@dataclass(frozen=True)
class Adapter:
    """`load`: what `reads` found, and threads -> what serves the model. `verifier`: the same for an opened artifact,
    also where its files can be checked but not served; None for torch, which has none. `reads`: a name or path -> the
    folder or file that is loaded."""

    load: Callable[[str | Path, int], Runtime]
    verifier: Verifier | None = None
    reads: Callable[[str | Path], Path] = lambda model: artifact_folder(model)  # which stands below


def _onnx() -> Adapter:
    from sam_edge.runtimes import with_onnxruntime

    return Adapter(with_onnxruntime.load, with_onnxruntime.OnnxRuntime)


def _openvino() -> Adapter:
    from sam_edge.runtimes import with_openvino

    return Adapter(with_openvino.load, with_openvino.OpenVinoRuntime)


def _tflite() -> Adapter:
    from sam_edge.runtimes import with_tflite

    return Adapter(with_tflite.load, with_tflite.TFLiteRuntime)


def _coreml() -> Adapter:
    from sam_edge.runtimes import with_coreml

    return Adapter(with_coreml.load, with_coreml.verifier)


def _torch() -> Adapter:
    from sam_edge.runtimes import with_torch

    return Adapter(with_torch.load, reads=with_torch.weights_path)


# The runtime of a target has the target's name, so that "auto" finds it in an artifact's manifest. A file is imported
# when its adapter is asked for.
RUNTIMES: dict[str, Callable[[], Adapter]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "tflite": _tflite,
    "coreml": _coreml,
    "torch": _torch,
}


def load(model: str | Path, runtime: str = AUTO, *, threads: int = 0) -> Runtime:
    """Load a model: the name of one inside the package (`nano`), an artifact folder, or a checkpoint file.

    "auto" takes torch for a checkpoint (.pth, .pt, .safetensors) and the artifact's own target for the rest. threads: 0
    leaves the choice to the library. Raises ArtifactError, CheckpointError or RuntimeUnavailable.
    """
    if threads < 0:
        raise RuntimeUnavailable(f"threads is {threads}, expected 0 (the library chooses) or more. Leave it out.")
    adapter = _adapter(model, runtime)
    return adapter.load(adapter.reads(model), threads)


def load_to_verify(artifact: Artifact, threads: int = 0, *, canary: bool = False) -> Runtime:
    """A runtime that computes the artifact's files, also where they can be checked but not served (Core ML away from
    macOS). Raises ArtifactError, RuntimeUnavailable."""
    target = artifact.manifest.target
    verifier = RUNTIMES[target]().verifier if target in RUNTIMES else None
    if verifier is None:
        raise ArtifactError(
            f"{artifact.directory} is for {target!r:.60}, which this version does not know. Update sam-edge."
        )
    return verifier(artifact, threads, canary=canary)


def loaded_path(model: str | Path, runtime: str = AUTO) -> Path:
    """What `load` reads of a name or path: an artifact's folder, or for torch the weights' file.

    Raises ArtifactError, CheckpointError, RuntimeUnavailable.
    """
    return _adapter(model, runtime).reads(model)


def _adapter(model: str | Path, runtime: str) -> Adapter:
    if runtime not in (AUTO, *RUNTIMES):
        raise RuntimeUnavailable(f"runtime {runtime!r} is not known, expected one of: {', '.join((AUTO, *RUNTIMES))}.")
    if runtime == AUTO:
        runtime = "torch" if Path(model).suffix.lower() in CHECKPOINT_SUFFIXES else _target(artifact_folder(model))
    return RUNTIMES[runtime]()


def _target(folder: Path) -> str:
    target = open_artifact(folder).manifest.target
    if target not in RUNTIMES:
        raise ArtifactError(f"{folder} is for {target!r:.60}, expected one of: {', '.join(RUNTIMES)}. Export it again.")
    return target


def artifact_folder(model: str | Path) -> Path:
    """The folder of a name or path. Raises ArtifactError."""
    path, packaged = Path(model), packaged_names()
    if model in packaged:  # a name is a text, and so goes before a folder of that name; a Path is a path
        return ASSETS / model
    if path.is_dir():
        return path
    if path.suffix.lower() in CHECKPOINT_SUFFIXES:
        raise ArtifactError(
            f"{model} is a checkpoint, and ONNX Runtime needs an artifact folder. Use the torch runtime, or export it."
        )
    if model in PUBLIC_MODELS:
        raise ArtifactError(
            f"{model} has its weights outside the package. Download {PUBLIC_MODELS[str(model)].checkpoint} from its "
            "authors and give the path of that file."
        )
    raise ArtifactError(
        f"there is no model {str(model)!r}: no folder is called so, and the models by name are "
        f"{', '.join((*packaged, *PUBLIC_MODELS))}. Check the name or the path."
    )


def packaged_names() -> list[str]:
    """The models inside the package."""
    return sorted(path.parent.name for path in ASSETS.glob(f"*/{MANIFEST_NAME}"))


@dataclass(frozen=True)
class ModelInfo:
    """A line of `sam-edge models`. `bytes` on disk; `quality` as measured; `checkpoint` is the file a person must get
    first, "" for a model that is here."""

    name: str
    parameters: int
    image_size: int
    licence: str
    bytes: int = 0
    checkpoint: str = ""
    quality: JsonDict = field(default_factory=dict)

    @property
    def on_disk(self) -> bool:
        return not self.checkpoint


# The published models, whose weights stay with their authors.
PUBLIC_MODELS = {
    info.name: info
    for info in (
        ModelInfo("vit_b", 93_735_472, 1024, "Apache-2.0", 375_042_383, "sam_vit_b_01ec64.pth"),
        ModelInfo("vit_l", 312_342_832, 1024, "Apache-2.0", 1_249_524_607, "sam_vit_l_0b3195.pth"),
        ModelInfo("vit_h", 641_090_608, 1024, "Apache-2.0", 2_564_550_879, "sam_vit_h_4b8939.pth"),
        ModelInfo("vit_t", 10_130_092, 1024, "Apache-2.0", 40_728_226, "mobile_sam.pt"),
    )
}


def available_models() -> list[ModelInfo]:
    """The models inside the package, then the published ones that need a checkpoint. Raises ArtifactError."""
    packaged = []
    for name in packaged_names():
        artifact = open_artifact(ASSETS / name)
        manifest = artifact.manifest
        packaged.append(
            ModelInfo(
                name=manifest.name,
                parameters=manifest.parameters,
                image_size=manifest.spec.image_size,
                licence=manifest.licence,
                bytes=artifact.size_bytes,
                quality=manifest.quality,
            )
        )
    return packaged + list(PUBLIC_MODELS.values())
