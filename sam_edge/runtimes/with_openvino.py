"""OpenVINO on the CPU (the `openvino` extra). The only file that imports openvino to run a model.

Intel's and AMD's CPUs with bfloat16 would compute in it unless told otherwise: precision is pinned here.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sam_edge.artifact import Artifact, open_artifact
from sam_edge.contract import Embedding, Float32, ModelSpec, Prediction, PromptTensors
from sam_edge.errors import ArtifactError, RuntimeUnavailable
from sam_edge.golden_vectors import check_embeddings
from sam_edge.manifest import contract_tensors
from sam_edge.runtimes.feeds import check_target, decode_in_parts, decoder_feeds, encoder_feeds

__all__ = ["OpenVinoRuntime", "import_openvino", "load", "openvino_core", "without_telemetry"]

TARGET = "openvino"
DEVICE = "CPU"
TYPES = {"float32": "f32", "uint8": "u8"}
OPTIONS = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",  # otherwise bfloat16 where the CPU has it: embeddings off by 8 to 13 %
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",  # otherwise activations of layers with int8 weights are rounded unasked
}


class OpenVinoRuntime:
    """`contract.Runtime` over an artifact. threads: 0 leaves the choice to the library.

    `canary` runs the artifact's golden photos through the encoder first (two encodes), see `check_embeddings`.
    Calls from several threads run one after the other. Raises ArtifactError for a folder that is not whole,
    RuntimeUnavailable without openvino.
    """

    name = "openvino"

    def __init__(self, artifact: Artifact, threads: int = 0, *, canary: bool = True) -> None:
        self.manifest = manifest = artifact.manifest
        check_target(artifact, TARGET)
        files = artifact.read_graphs()  # all of them, before one runs
        core = openvino_core()
        self._encoder, self._decoder = (
            _Network(core, artifact, name, files, threads) for name in ("encoder", "decoder")
        )
        if canary:
            check_embeddings(self, artifact.read_golden(), manifest.embedding_tolerance)

    @property
    def spec(self) -> ModelSpec:
        return self.manifest.spec

    def encode(self, image: NDArray[Any]) -> Embedding:
        image_embeddings, *high_res_features = self._encoder.run(encoder_feeds(self.spec, image))
        return Embedding(image_embeddings, tuple(high_res_features))

    def decode(self, embedding: Embedding, prompts: PromptTensors) -> Prediction:
        return decode_in_parts(decoder_feeds(self.spec, embedding, prompts), self._decoder.run)


def load(directory: str | Path, threads: int = 0, *, canary: bool = True) -> OpenVinoRuntime:
    """A runtime for an artifact folder; see OpenVinoRuntime for what it raises."""
    return OpenVinoRuntime(open_artifact(directory), threads, canary=canary)


class _Network:
    """One compiled graph. An infer request takes one call at a time, hence the lock."""

    def __init__(self, core: Any, artifact: Artifact, name: str, files: dict[str, bytes], threads: int) -> None:
        self._lock = threading.Lock()
        self._compiled = _compile(core, artifact, name, files, threads)
        self._request = self._compiled.create_infer_request()

    def run(self, feeds: dict[str, Float32]) -> list[Float32]:
        """The outputs in the order of the graph, as arrays of the caller's own."""
        with self._lock:
            results = self._request.infer(feeds, share_inputs=True, share_outputs=False)
        return [results[output] for output in self._compiled.outputs]


def _compile(core: Any, artifact: Artifact, name: str, files: dict[str, bytes], threads: int) -> Any:
    ov = import_openvino()
    file = artifact.manifest.graphs[name].file
    options = OPTIONS | ({"INFERENCE_NUM_THREADS": str(threads)} if threads else {})
    try:
        weights = ov.Tensor(np.frombuffer(files[file.removesuffix("xml") + "bin"], np.uint8))
        model = core.read_model(model=files[file], weights=weights)
        compiled = core.compile_model(model, DEVICE, options)
    except Exception as error:  # openvino raises RuntimeError and ValueError, whose texts have C++ lines
        reason = " ".join(str(error).split())[:300]
        raise ArtifactError(
            f"openvino {ov.__version__} cannot load the {name} of {artifact.directory} ({reason}). "
            "Update openvino, or export the model again."
        ) from error
    declared = contract_tensors(artifact.manifest.spec)[name]
    for tensors, nodes in zip(declared, (compiled.inputs, compiled.outputs), strict=True):
        got = [(sorted(x.get_names()), x.get_element_type().to_string(), _sizes(x)) for x in nodes]
        if got != [
            ([x.name], TYPES[x.dtype], tuple(-1 if isinstance(n, str) else n for n in x.shape)) for x in tensors
        ]:
            raise ArtifactError(f"openvino sees {got} in the {name} of {artifact.directory}. Export it again.")
    return compiled


def _sizes(node: Any) -> tuple[int, ...]:
    """The shape of an input or output, -1 for a free size."""
    return tuple(size.get_length() if size.is_static else -1 for size in node.get_partial_shape())


def import_openvino() -> Any:
    """The openvino module. Raises RuntimeUnavailable with the command that installs it."""
    try:
        with without_telemetry():
            import openvino
    except ImportError as error:
        raise RuntimeUnavailable(
            f"openvino cannot be imported ({error}), and this model runs on it. Install it with: "
            "pip install 'sam-edge[openvino]'"
        ) from error
    return openvino


@functools.cache
def openvino_core() -> Any:
    """The one Core of this process. Raises RuntimeUnavailable.

    A Core's CPU plugin sets a stack for signals and puts the former one back when it goes (2026.4). Of two Cores whose
    lives overlap, the later one so puts back memory that is freed, and the next signal with a handler (SIGCHLD under
    torch's data loaders) ends the process with a segmentation fault. A Core that stays never puts anything back.
    """
    return import_openvino().Core()


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Openvino and nncf, imported inside, find no `openvino_telemetry`.

    With it, `import openvino` alone reports to Google Analytics and writes to ~/intel (2026.4), unless a person opted
    out or CI=true is set. Both libraries have a stub of their own for where it is not installed.
    """
    modules = cast(dict[str, Any], sys.modules)
    if "openvino_telemetry" in modules:  # the program that uses us has imported it, and so decided
        yield
        return
    modules["openvino_telemetry"] = None  # importing it raises ImportError
    try:
        yield
    finally:
        del modules["openvino_telemetry"]
