"""The reference runtime: the model itself in PyTorch, float32."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sam_edge.contract import PROMPT_INPUTS, Embedding, Float32, ModelSpec, Prediction, PromptTensors, Runtime
from sam_edge.errors import RuntimeUnavailable, require
from sam_edge.runtimes.feeds import decoder_feeds, encoder_feeds

if TYPE_CHECKING:
    from torch import Tensor

    from sam_edge.model.sam import Sam

__all__ = ["TorchRuntime", "load", "weights_path"]


class TorchRuntime:
    """`contract.Runtime` over a `Sam`. threads: 0 leaves torch's choice; any other holds for the whole process.

    Raises RuntimeUnavailable without torch, or for a device that is not here.
    """

    name = "torch"

    def __init__(self, model: Sam, threads: int = 0, device: str = "cpu") -> None:
        self._torch = require("torch", extra="torch")
        if threads:
            self._torch.set_num_threads(threads)
        try:
            self._model = model.to(device).eval()
        except (RuntimeError, AssertionError) as error:  # no such device, or torch built without its support
            raise RuntimeUnavailable(
                f"device {device!r} cannot be used ({str(error).splitlines()[0]}). Use 'cpu', or another device."
            ) from error

    @property
    def spec(self) -> ModelSpec:
        return self._model.spec

    def encode(self, image: Float32) -> Embedding:
        tensors = self._tensors(encoder_feeds(self.spec, image))
        with self._torch.inference_mode():
            image_embeddings, *high_res_features = self._model.encode(*tensors)
        return Embedding(_array(image_embeddings), tuple(_array(x) for x in high_res_features))

    def decode(self, embedding: Embedding, prompts: PromptTensors) -> Prediction:
        tensors = self._tensors(decoder_feeds(self.spec, embedding, prompts))
        embeddings, rows = tensors[: -len(PROMPT_INPUTS)], tensors[-len(PROMPT_INPUTS) :]
        with self._torch.inference_mode():
            low_res_masks, iou_predictions = self._model.decode(tuple(embeddings), *rows)
        return Prediction(_array(low_res_masks), _array(iou_predictions))

    def _tensors(self, feeds: dict[str, Float32]) -> list[Tensor]:
        return [self._torch.from_numpy(array).to(self._model.device) for array in feeds.values()]


def _array(tensor: Tensor) -> Float32:
    return tensor.float().cpu().numpy()


def load(model: str | Path, threads: int = 0, device: str = "cpu") -> Runtime:
    """A runtime for a model's name or a checkpoint file (.pth, .pt, .safetensors).

    Raises RuntimeUnavailable without torch, CheckpointError for weights that cannot be used.
    """
    require("torch", extra="torch")
    require("safetensors", extra="torch")
    from sam_edge.model.checkpoints import load_model

    return TorchRuntime(load_model(model), threads, device)


def weights_path(model: str | Path) -> Path:
    """The file that `load` reads. Raises RuntimeUnavailable without torch, CheckpointError where there is none."""
    path: Path = require("sam_edge.model.checkpoints", extra="torch").checkpoint_path(model)
    return path
