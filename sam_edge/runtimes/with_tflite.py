"""LiteRT (TFLite) on the CPU, and the only file that imports ai_edge_litert.

A TFLite file fixes the numbers of prompts and of points. Prompts with fewer points get empty slots, which change
nothing; a batch goes through in parts, the last of them filled with repeats of a prompt.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from sam_edge.artifact import Artifact, open_artifact
from sam_edge.contract import LABEL_EMPTY, PROMPT_INPUTS, Embedding, Float32, ModelSpec, Prediction, PromptTensors
from sam_edge.errors import ArtifactError, PromptError, RuntimeUnavailable, first_line
from sam_edge.golden_vectors import check_embeddings
from sam_edge.manifest import POINTS, PROMPTS, Tensor, contract_tensors
from sam_edge.runtimes.feeds import check_target, decoder_feeds, encoder_feeds
from sam_edge.tflite_check import ENCODE_SIGNATURE, decode_signature, decode_sizes

__all__ = ["TFLiteRuntime", "load"]

TARGET = "tflite"


class TFLiteRuntime:
    """`contract.Runtime` over an artifact. threads: 0 leaves the choice to the library, which takes one.

    `canary` runs the artifact's golden photos through the encoder first (two encodes), see `check_embeddings`.
    float32 is computed as float32: XNNPACK, which LiteRT uses on CPUs, rounds to float16 only where the file's metadata
    let it, and files with such metadata are refused. Raises ArtifactError for a folder that is not whole,
    RuntimeUnavailable without LiteRT.
    """

    name = "tflite"

    def __init__(self, artifact: Artifact, threads: int = 0, *, canary: bool = True) -> None:
        self.manifest = manifest = artifact.manifest
        check_target(artifact, TARGET)
        files = artifact.read_graphs()  # all of them, before one runs
        encoder, decoder = (
            _interpreter(artifact, name, files[manifest.graphs[name].file], threads) for name in ("encoder", "decoder")
        )
        declared = contract_tensors(manifest.spec)
        self._encode = _runner(artifact, encoder, ENCODE_SIGNATURE, declared["encoder"])
        self._encoder_outputs = [tensor.name for tensor in declared["encoder"][1]]
        self._decoder_outputs = [tensor.name for tensor in declared["decoder"][1]]
        sizes = sorted(decode_sizes(name) for name in decoder.get_signature_list())
        self._decode = {
            (prompts, points): _runner(
                artifact, decoder, decode_signature(prompts, points), declared["decoder"], prompts, points
            )
            for prompts, points in sizes
        }
        self._prompts, self._points = (sorted(set(numbers)) for numbers in zip(*sizes, strict=True))
        if manifest.fixed_sizes != {PROMPTS: self._prompts, POINTS: self._points}:
            raise ArtifactError(
                f"{artifact.directory} has a decoder for {self._prompts} prompts of {self._points} points, but its "
                f"manifest says {manifest.fixed_sizes}. Export it again."
            )
        if canary:
            check_embeddings(self, artifact.read_golden(), manifest.embedding_tolerance)

    @property
    def spec(self) -> ModelSpec:
        return self.manifest.spec

    def encode(self, image: Float32) -> Embedding:
        outputs = self._encode(**encoder_feeds(self.spec, image))
        image_embeddings, *high_res_features = (outputs[name] for name in self._encoder_outputs)
        return Embedding(image_embeddings, tuple(high_res_features))

    def decode(self, embedding: Embedding, prompts: PromptTensors) -> Prediction:
        """Raises PromptError for a prompt with more points than the file was exported for."""
        feeds = decoder_feeds(self.spec, embedding, prompts)
        count, needed = prompts.point_labels.shape
        points = next((size for size in self._points if size >= needed), None)
        if points is None:
            raise PromptError(
                f"a prompt has {needed} points (a box counts as 2, a padding point as 1), expected at most "
                f"{self._points[-1]} in this file of {self.spec.name}. Give fewer, or export it with larger sizes."
            )
        rows = _filled({name: feeds[name] for name in PROMPT_INPUTS}, points)
        parts = []
        done = 0
        while done < count:
            size = _part(self._prompts, count - done)
            part = {name: _repeated(array[done : done + size], size) for name, array in rows.items()}
            outputs = self._decode[size, points](**(feeds | part))
            parts.append([outputs[name][: count - done] for name in self._decoder_outputs])
            done += size
        low_res_masks, iou_predictions = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Prediction(low_res_masks, iou_predictions)


def load(directory: str | Path, threads: int = 0, *, canary: bool = True) -> TFLiteRuntime:
    """A runtime for an artifact folder; see TFLiteRuntime for what it raises."""
    return TFLiteRuntime(open_artifact(directory), threads, canary=canary)


def _part(sizes: list[int], left: int) -> int:
    """The next run's prompts: as many as the rest fills, or the fewest that hold it."""
    whole = [size for size in sizes if size <= left]
    return whole[-1] if whole else sizes[0]


def _filled(rows: dict[str, Float32], points: int) -> dict[str, Float32]:
    """The prompts' tensors with empty slots up to `points`."""
    missing = points - rows["point_labels"].shape[1]
    return rows | {
        "point_coords": np.pad(rows["point_coords"], ((0, 0), (0, missing), (0, 0))),
        "point_labels": np.pad(rows["point_labels"], ((0, 0), (0, missing)), constant_values=LABEL_EMPTY),
    }


def _repeated(rows: Float32, size: int) -> Float32:
    """`size` rows: the given ones, then the last of them again."""
    return np.pad(rows, ((0, size - len(rows)), *((0, 0) for _ in rows.shape[1:])), mode="edge")


def _interpreter(artifact: Artifact, name: str, graph: bytes, threads: int) -> Any:
    library = _library()
    try:
        interpreter = library.Interpreter(model_content=graph, num_threads=threads or None)
        interpreter.allocate_tensors()  # of the first signature: what its kernels refuse, they refuse here
    except (ValueError, RuntimeError) as error:
        raise _unloadable(artifact, name, error) from error
    return interpreter


def _library() -> Any:
    """LiteRT, or its older name on systems that have only that one."""
    try:
        return importlib.import_module("ai_edge_litert.interpreter")
    except ImportError as error:
        try:
            return importlib.import_module("tflite_runtime.interpreter")
        except ImportError:
            raise RuntimeUnavailable(
                f"ai_edge_litert cannot be imported ({error}), and .tflite models run on it. Install it with: "
                "pip install 'sam-edge[tflite]'"
            ) from error


def _runner(
    artifact: Artifact,
    interpreter: Any,
    signature: str,
    declared: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
    prompts: int = 0,
    points: int = 0,
) -> Any:
    """The call of one signature; its tensors must be what the contract declares, as LiteRT sees them."""
    try:
        runner = interpreter.get_signature_runner(signature)
    except (ValueError, RuntimeError) as error:
        raise _unloadable(artifact, signature, error) from error
    sizes = {PROMPTS: prompts, POINTS: points}
    for tensors, details in zip(declared, (runner.get_input_details(), runner.get_output_details()), strict=True):
        expected = {t.name: (t.dtype, tuple(sizes.get(str(n), n) for n in t.shape)) for t in tensors}
        got = {name: (np.dtype(x["dtype"]).name, tuple(map(int, x["shape"]))) for name, x in details.items()}
        if got != expected:
            raise ArtifactError(f"LiteRT sees {got} in {signature} of {artifact.directory}. Export it again.")
    return runner


def _unloadable(artifact: Artifact, name: str, error: Exception) -> ArtifactError:
    reason = first_line(error)
    return ArtifactError(
        f"LiteRT cannot load the {name} of {artifact.directory} ({reason}). Update ai-edge-litert, or export it again."
    )
