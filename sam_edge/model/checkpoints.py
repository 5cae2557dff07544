"""Weights in and out of files: the public ones unchanged and strictly, ours as safetensors with their configuration.

Nothing in a file is executed: pickles load with `weights_only=True`, and every name and shape is compared with the
model's before a value is copied.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sam_edge.errors import CheckpointError
from sam_edge.files import atomic_file
from sam_edge.model.config import ModelConfig, ViTConfig
from sam_edge.model.dense_prompts import with_new_maps
from sam_edge.model.registry import MODELS, PUBLIC_CHECKPOINTS, build_model, model_config
from sam_edge.model.sam import Sam
from sam_edge.model.vit import resize_positions

__all__ = ["checkpoint_path", "load_checkpoint", "load_model", "save_checkpoint", "take_over"]

METADATA_KEY = "sam_edge_config"  # in a safetensors header: ModelConfig as JSON
NANO_WEIGHTS = Path(__file__).parents[2] / "weights" / "nano.safetensors"  # in a source checkout
OPTIONAL_SUFFIX = ".num_batches_tracked"  # older files lack these counters of batch norm, which inference does not use

Shapes = dict[str, tuple[int, ...]]


def load_model(name_or_path: str | Path, image_size: int | None = None) -> Sam:
    """A model by its name or from its file, in evaluation mode, float32, on the CPU. Raises CheckpointError."""
    path = checkpoint_path(name_or_path)
    variant = None if path == Path(name_or_path) else str(name_or_path)
    return load_checkpoint(path, variant=variant, image_size=image_size)


def checkpoint_path(name_or_path: str | Path) -> Path:
    """The weights' file of a model's name, or the path itself. Raises CheckpointError for a name without weights."""
    path = Path(name_or_path)
    name = str(name_or_path)
    if path.is_file() or name not in MODELS:
        return path
    if name in PUBLIC_CHECKPOINTS:
        raise CheckpointError(
            f"{name} has no weights in this package. Download {PUBLIC_CHECKPOINTS[name]} and give that file's path."
        )
    if name != "nano":
        raise CheckpointError(
            f"{name} has no weights yet, expected a checkpoint. Make one with `sam-edge distill --student {name}` and "
            f"give that file's path."
        )
    if not NANO_WEIGHTS.is_file():
        raise CheckpointError(
            f"{name} is installed without its torch weights ({NANO_WEIGHTS} is not there); the package has its ONNX "
            f"form. Use the onnx runtime, or give the path of a safetensors file."
        )
    return NANO_WEIGHTS


def load_checkpoint(path: str | Path, *, variant: str | None = None, image_size: int | None = None) -> Sam:
    """The model in a file: a public checkpoint (.pth, .pt) or safetensors with or without our metadata.

    The variant is found from the file; `variant` says which one is expected. `image_size` is the input side in pixels
    to build for, if not the file's own: position tables of a ViT are then interpolated. float16 becomes float32. Raises
    CheckpointError.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path} is not there, expected a checkpoint (.pth, .pt, .safetensors) or a model: {', '.join(MODELS)}."
        )
    if path.suffix == ".safetensors":
        state, config = _read_safetensors(path)
    else:
        state, config = _read_pickle(path), None
    wanted = None if variant is None else model_config(variant)
    if config is None:
        config = _recognise(path, state)
    if wanted is not None and config.name != wanted.name:
        raise CheckpointError(f"{path} holds {config.name}, expected {wanted.name}. Give the file of {wanted.name}.")
    _check_names_and_shapes(path, state, config)
    if image_size is not None:
        config = config.with_image_size(image_size)
        if isinstance(config.encoder, ViTConfig):
            state = resize_positions(state, config.encoder)
    with torch.device("meta"):  # no time and memory for weights that are replaced at once
        model = build_model(config)
    # Copies, so that the model does not hang on a mapped file that someone may overwrite.
    model.load_state_dict({name: _own_copy(tensor) for name, tensor in state.items()}, strict=True, assign=True)
    return model


def take_over(model: Sam, values: dict[str, Tensor], source: str) -> None:
    """Load the values of an earlier, perhaps smaller model of the same kind into `model`.

    Parts that it did not have keep their start: nano's residual blocks and its pixel path start as nothing, and one
    more prompt map is not looked at, so that the grown model draws what the earlier one drew. Raises CheckpointError
    for values that have no place.
    """
    own = model.state_dict()
    readers = [name for name in model.mask_decoder.map_readers if name in own.keys() & values.keys()]
    values = values | {name: with_new_maps(values[name], own[name]) for name in readers}
    homeless = [name for name, value in values.items() if name not in own or own[name].shape != value.shape]
    if homeless:
        raise CheckpointError(
            f"{source} has {homeless[0]} and {len(homeless) - 1} more that {model.spec.name} has no place for, "
            "expected a checkpoint of the same kind of model. Choose another --init or --model."
        )
    model.load_state_dict(values, strict=False)


def save_checkpoint(model: Sam, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write safetensors with the configuration inside; `path` changes only when the file is complete.

    dtype: of floating-point tensors; torch.float16 halves the file, and `load_checkpoint` makes it float32 again.
    Raises OutputError.
    """
    tensors = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    metadata = {"format": "pt", METADATA_KEY: json.dumps(model.config.to_dict())}
    with atomic_file(path) as file:
        file.write(save(tensors, metadata))


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a file written by torch.save, mapped rather than read where the format allows it."""
    try:
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"  # files from before torch 1.6 are plain pickles, which cannot be mapped
        with warnings.catch_warnings():  # of a pickle's protocol: what follows says it in one line
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is corrupt or holds more than tensors, and was not loaded ({_refusal(error)}). Expected a "
            f"dictionary of tensors written by torch.save; get the file again from where it was published."
        ) from error
    except Exception as error:  # a damaged file may raise anything in the reader
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {_first_line(error)}). It may be "
            f"truncated: get the file again."
        ) from error
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise CheckpointError(
            f"{path} holds something else than weights, expected a flat dictionary of names and tensors."
        )
    return dict(content)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], ModelConfig | None]:
    """The tensors, and the configuration if this package wrote the file."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dictionary)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({_first_line(error)}). Get the file again."
        ) from error
    if METADATA_KEY not in metadata:
        return state, None
    try:
        config = ModelConfig.from_dict(json.loads(metadata[METADATA_KEY]))
        _shapes(config)
    except Exception as error:  # the text is the file's: any value may stand where a size is expected
        raise CheckpointError(
            f"{path} has a configuration no model can be built from ({type(error).__name__}: {_first_line(error)}). "
            f"It was written by another version, or edited: save the model again."
        ) from error
    return state, config


def _recognise(path: Path, state: Mapping[str, Tensor]) -> ModelConfig:
    """The variant that the file's names and shapes fit best; whether they fit exactly is checked afterwards."""
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    differences = {name: _differences(found, _shapes(config)) for name, config in MODELS.items()}
    nearest = min(differences, key=lambda name: differences[name])
    if differences[nearest] > len(_shapes(MODELS[nearest])) // 2:
        raise CheckpointError(
            f"{path} holds the weights of another model ({len(found)} tensors: {_short(found)}), expected one of: "
            f"{', '.join(MODELS)}."
        )
    return MODELS[nearest]


def _differences(found: Shapes, expected: Shapes) -> int:
    return sum(found.get(name) != expected.get(name) for name in found.keys() | expected.keys())


def _check_names_and_shapes(path: Path, state: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Raise CheckpointError unless the file has exactly the model's tensors."""
    expected = _shapes(config)
    missing = [name for name in expected if name not in state and not name.endswith(OPTIONAL_SUFFIX)]
    unexpected = [name for name in state if name not in expected]
    if missing or unexpected:
        parts = [f"missing: {_short(missing)}"] * bool(missing) + [f"unexpected: {_short(unexpected)}"] * bool(
            unexpected
        )
        raise CheckpointError(
            f"{path} does not fit {config.name}: {'; '.join(parts)}. Expected exactly its {len(expected)} tensors."
        )
    for name, tensor in state.items():
        if tuple(tensor.shape) != expected[name]:
            raise CheckpointError(
                f"{path} does not fit {config.name}: {name} has shape {tuple(tensor.shape)}, expected {expected[name]}."
            )


@lru_cache(maxsize=16)
def _shapes(config: ModelConfig) -> Shapes:
    """Names and shapes of the model's state dict, without making its weights."""
    with torch.device("meta"):
        model = build_model(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _own_copy(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)


def _short(names: Iterable[str], limit: int = 3) -> str:
    names = list(names)
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _refusal(error: pickle.UnpicklingError) -> str:
    """torch's reason without its advice, which is to load the file in spite of it."""
    reason = re.search(r"WeightsUnpickler error: ([^\n]+?)(\. |\n|$)", str(error))
    return reason[1].strip() if reason else "not a pickle of tensors"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
