"""ONNX Runtime on the CPU: the runtime that the package needs, and the only file that imports onnxruntime."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sam_edge.artifact import Artifact, open_artifact
from sam_edge.contract import Embedding, ModelSpec, Prediction, PromptTensors
from sam_edge.errors import ArtifactError, RuntimeUnavailable
from sam_edge.golden_vectors import check_embeddings
from sam_edge.manifest import contract_tensors
from sam_edge.runtimes.feeds import PROMPTS_A_RUN, check_target, decode_in_parts, decoder_feeds, encoder_feeds

__all__ = ["OnnxRuntime", "load"]

TARGET = "onnx"
TYPES = {"float32": "tensor(float)", "uint8": "tensor(uint8)"}
ERRORS_ONLY = 3  # onnxruntime's severity: its warnings are about graphs, which a user cannot change


class OnnxRuntime:
    """`contract.Runtime` over an artifact. threads: 0 leaves the choice to the library.

    `canary` runs the artifact's golden photos through the encoder first (two encodes), see `check_embeddings`.
    Raises ArtifactError for a folder that is not whole, RuntimeUnavailable without onnxruntime.
    """

    name = "onnx"

    def __init__(self, artifact: Artifact, threads: int = 0, *, canary: bool = True) -> None:
        self.manifest = manifest = artifact.manifest
        check_target(artifact, TARGET)
        files = artifact.read_graphs()  # all of them, before one runs
        graphs = {name: files[manifest.graphs[name].file] for name in ("encoder", "decoder")}
        self._encoder, self._decoder = (_session(artifact, name, graph, threads) for name, graph in graphs.items())
        self._workers = threads or os.cpu_count() or 1
        # A second decoder of one thread, made when a large batch first asks for it; several threads may run it at once:
        # parts side by side cost 8.6 ms of a core a prompt (nano), one part on two threads 10.9.
        self._make_batch_decoder = partial(_session, artifact, "decoder", graphs["decoder"], 1)
        if canary:
            check_embeddings(self, artifact.read_golden(), manifest.embedding_tolerance)

    @property
    def spec(self) -> ModelSpec:
        return self.manifest.spec

    def encode(self, image: NDArray[Any]) -> Embedding:
        feeds = encoder_feeds(self.spec, image)
        image_embeddings, *high_res_features = self._encoder.run(None, feeds)
        return Embedding(image_embeddings, tuple(high_res_features))

    def decode(self, embedding: Embedding, prompts: PromptTensors) -> Prediction:
        feeds = decoder_feeds(self.spec, embedding, prompts)
        if len(prompts.point_labels) <= PROMPTS_A_RUN:
            return Prediction(*self._decoder.run(None, feeds))
        return decode_in_parts(feeds, partial(self._batch_decoder.run, None), self._pool.map)

    @cached_property
    def _batch_decoder(self) -> Any:
        return self._make_batch_decoder()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._workers, thread_name_prefix="decode")


def load(directory: str | Path, threads: int = 0, *, canary: bool = True) -> OnnxRuntime:
    """A runtime for an artifact folder; see OnnxRuntime for what it raises."""
    return OnnxRuntime(open_artifact(directory), threads, canary=canary)


def _session(artifact: Artifact, name: str, graph: bytes, threads: int) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise RuntimeUnavailable(
            f"onnxruntime cannot be imported ({error}), and models run on it. Install it with: pip install onnxruntime"
        ) from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = ERRORS_ONLY
    # Threads that spin while they wait halve the speed where other work wants the cores (123 against 55 ms an encode).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Otherwise bytes that also look like an .ort file would be read as one, past the check of their structure.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base class
        reason = str(error).splitlines()[0][:300]
        raise ArtifactError(
            f"onnxruntime {ort.__version__} cannot load the {name} of {artifact.directory} ({reason}). "
            "Update onnxruntime, or export the model again."
        ) from error
    declared = contract_tensors(artifact.manifest.spec)[name]
    for tensors, nodes in zip(declared, (session.get_inputs(), session.get_outputs()), strict=True):
        got = [(node.name, node.type, tuple(node.shape)) for node in nodes]
        if got != [(tensor.name, TYPES[tensor.dtype], tensor.shape) for tensor in tensors]:
            raise ArtifactError(f"onnxruntime sees {got} in the {name} of {artifact.directory}. Export it again.")
    return session
