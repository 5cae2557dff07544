"""What an artifact folder says of itself, as frozen dataclasses; `manifest_json.py` reads and writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sam_edge import contract
from sam_edge.contract import ModelSpec

__all__ = [
    "EMBEDDING_TOLERANCE",
    "HEIGHT",
    "POINTS",
    "PREPROCESSING",
    "PROMPTS",
    "SCHEMA",
    "WIDTH",
    "FileEntry",
    "Graph",
    "JsonDict",
    "Manifest",
    "Tensor",
    "contract_tensors",
]

SCHEMA = 3
PROMPTS, POINTS = "prompts", "points"  # names of the dynamic sizes B and N, as graphs declare them
HEIGHT, WIDTH = "height", "width"  # and of a photo's

# Of the stored embedding's standard deviation, float32 on both sides. The order of sums moves it by 1e-6, half
# precision by 1e-3 and more.
EMBEDDING_TOLERANCE = 5e-4

# In words for people; the numbers are in the spec and the arithmetic in image.py. A graph that expects anything else
# needs another schema, so a loader compares this text.
PREPROCESSING = {
    "resize": "longest side to image_size, sides rounded half up, bilinear with antialiasing, 8 bits a channel",
    "normalise": "RGB, (value - pixel_mean) / pixel_std",
    "pad": "zeros right and below, after normalising",
}

JsonDict: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Tensor:
    """One input or output of a graph; a size that a caller chooses is a name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Graph:
    """`op_counts`: operator type -> how many the file has."""

    file: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    op_counts: dict[str, int]


@dataclass(frozen=True)
class FileEntry:
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """`config` is the model's configuration as plain data.

    `precision` is what a runtime computes in, `weights_stored` what the file holds, `recipe` how it was made
    (quantize/recipe.py). `fixed_sizes`: the numbers of prompts and of points that the decoder's file takes, where its
    format fixes them ({"prompts": [1, 16], "points": [8]}); empty where they are free. `embedding_tolerance`: how far
    the encoder's outputs may lie from the golden ones at load, in standard deviations of those. `quality` holds
    measured figures (`box_miou`, ...), empty until they are measured.
    """

    name: str
    spec: ModelSpec
    config: JsonDict
    parameters: int
    checkpoint_sha256: str
    target: str
    precision: str
    weights_stored: str
    recipe: JsonDict
    graphs: dict[str, Graph]
    files: dict[str, FileEntry]
    tool_versions: dict[str, str]
    licence: str
    training_data: str
    command: str
    fixed_sizes: dict[str, list[int]] = field(default_factory=dict)
    embedding_tolerance: float = EMBEDDING_TOLERANCE
    quality: JsonDict = field(default_factory=dict)


def contract_tensors(spec: ModelSpec) -> dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """What `contract.py` says of both graphs of a model: name -> (inputs, outputs), in declared order."""
    side, mask = spec.image_size, spec.mask_size

    def tensor(name: str, *shape: int | str) -> Tensor:
        return Tensor(name, "float32", shape)

    embeddings = (
        tensor(contract.IMAGE_EMBEDDINGS, 1, spec.embedding_channels, spec.embedding_size, spec.embedding_size),
        *(
            tensor(name, 1, channels, side // stride, side // stride)
            for name, channels, stride in zip(
                contract.HIGH_RES_FEATURES, spec.high_res_channels, contract.HIGH_RES_STRIDES, strict=False
            )
        ),
    )
    prompt_shapes: tuple[tuple[int | str, ...], ...] = (
        (PROMPTS, POINTS, 2),
        (PROMPTS, POINTS),
        (PROMPTS, 1, mask, mask),
        (PROMPTS,),
    )
    prompts = tuple(tensor(name, *shape) for name, shape in zip(contract.PROMPT_INPUTS, prompt_shapes, strict=True))
    low_res_masks, iou_predictions = contract.PREDICTION_OUTPUTS
    predictions = (
        tensor(low_res_masks, PROMPTS, contract.NUM_MASKS, mask, mask),
        tensor(iou_predictions, PROMPTS, contract.NUM_MASKS),
    )
    image = tensor(contract.IMAGE, 1, 3, side, side)
    photo = Tensor(contract.PHOTO, "uint8", (HEIGHT, WIDTH, 3))
    return {
        "encoder": ((photo if spec.photo_input else image,), embeddings),
        "decoder": ((*embeddings, *prompts), predictions),
    }
