"""What a student starts as: its configuration, its first weights, and whether it fits a teacher."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sam_edge.contract import ModelSpec
from sam_edge.errors import CheckpointError, first_line
from sam_edge.model.checkpoints import load_model
from sam_edge.model.config import ModelConfig
from sam_edge.model.registry import MODELS, build_model
from sam_edge.model.sam import Sam

__all__ = ["adopt_decoder", "check_fits", "read_config", "read_student", "take_what_fits"]

MAX_CONFIG_BYTES = 1 << 20


def read_student(student: str, image_size: int | None = None) -> tuple[ModelConfig, Sam | None]:
    """-> (configuration, the model if `student` has weights) of a registry name, a checkpoint or a JSON file.

    A JSON file holds what `ModelConfig.to_dict` returns. `image_size` replaces the input side in pixels. Raises
    CheckpointError.
    """
    if student in MODELS:
        config = MODELS[student]
    elif student.endswith(".json"):
        config = read_config(Path(student))
    else:
        model = load_model(student, image_size)
        return model.config, model
    if image_size is not None:
        config = config.with_image_size(image_size)
    with torch.device("meta"):
        build_model(config)  # an input side that the encoder cannot take is said before anything is read
    return config, None


def read_config(path: Path) -> ModelConfig:
    """The configuration in a JSON file: what `ModelConfig.to_dict` returns. Raises CheckpointError."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    try:
        if len(text) > MAX_CONFIG_BYTES:
            raise ValueError(f"more than {MAX_CONFIG_BYTES} bytes")
        config = ModelConfig.from_dict(json.loads(text))
        with torch.device("meta"):
            build_model(config)
    except CheckpointError:
        raise
    except Exception as error:  # the text is the user's: any value may stand where a size is expected
        raise CheckpointError(
            f"{path} is not a model's configuration ({type(error).__name__}: {first_line(error)}), expected JSON with "
            f"name, encoder (with its kind) and decoder. Start from one of `sam_edge.model.registry.MODELS`, to_dict()."
        ) from None
    return config


def check_fits(student: ModelConfig, teacher: ModelSpec) -> None:
    """Raise CheckpointError unless the student's image_embeddings have the teacher's shape."""
    spec = student.spec
    got = (spec.embedding_channels, spec.embedding_size, spec.embedding_size)
    expected = (teacher.embedding_channels, teacher.embedding_size, teacher.embedding_size)
    if got == expected:
        return
    if got[0] == expected[0]:
        advice = f"Give both the same side with --size {teacher.image_size}"
    else:
        fitting = [name for name, config in MODELS.items() if config.spec.embedding_channels == expected[0]]
        small = [name for name in ("nano_sam", "vit_t") if name in fitting]
        advice = f"Use --student {' or '.join(small)}" if small else "Use another student"
    raise CheckpointError(
        f"{student.name}'s image_embeddings have shape {got}, expected the teacher's {expected}. {advice}, or teach it "
        "masks alone with --stage masks."
    )


def adopt_decoder(model: Sam, teacher: Sam) -> str:
    """Put the teacher's prompt encoder and mask decoder into the student if their configurations agree; say if so."""
    ours, theirs = model.mask_decoder.config, teacher.mask_decoder.config
    if ours != theirs:
        differing = [
            f"{name} {value!r}, not {getattr(theirs, name)!r}"
            for name, value in vars(ours).items()
            if value != getattr(theirs, name)
        ]
        return f"the student's decoder differs from the teacher's ({'; '.join(differing)}) and keeps its own weights"
    model.prompt_encoder.load_state_dict(teacher.prompt_encoder.state_dict())
    model.mask_decoder.load_state_dict(teacher.mask_decoder.state_dict())
    return "the student has the teacher's prompt encoder and mask decoder"


def take_what_fits(model: Sam, values: Mapping[str, Tensor], source: str) -> str:
    """Load every tensor whose name and shape the student has; say how many. Raises CheckpointError for none."""
    own = model.state_dict()
    fitting = {name: value for name, value in values.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise CheckpointError(f"{source} has no tensor that {model.spec.name} has a place for. Choose another --init.")
    model.load_state_dict(fitting, strict=False)
    return f"{source}: {len(fitting)} of its {len(values)} tensors fit the student's {len(own)}"
