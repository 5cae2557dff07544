"""One export for all tests, since tracing a decoder takes many seconds; and what most exporters are tried on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sam_edge.contract import (
    LABEL_BOX_BOTTOM_RIGHT,
    LABEL_BOX_TOP_LEFT,
    LABEL_EMPTY,
    LABEL_FOREGROUND,
    MASK_STRIDE,
)
from sam_edge.export.graphs import exported_values
from sam_edge.export.to_onnx import to_onnx_bytes
from sam_edge.image import Photo, preprocess, read_photo
from sam_edge.model.checkpoints import NANO_WEIGHTS, load_checkpoint
from sam_edge.model.sam import Sam
from sam_edge.runtimes import ASSETS
from tests.tiny_models import tiny_model

PROMPTS_COUNT = 8.0  # times as much as random weights let them: a fault in a prompt must change masks


@pytest.fixture(scope="session")
def nano() -> Sam:
    """Tiny, with what training gives: scales in the trunk, embeddings that follow the photo, masks of some size."""
    model = tiny_model("nano")
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith(".scale"):
                torch.nn.init.uniform_(buffer, 0.5, 1.5)
        for name, parameter in model.image_encoder.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif name.startswith("trunk"):
                parameter.mul_(2.5)
            elif not name.startswith(("neck_blocks", "pixel_path")):  # which are random here, and strong enough
                parameter.mul_(10.0)
        model.mask_decoder.dense_to_upscaled.weight.mul_(PROMPTS_COUNT)
        model.mask_decoder.mask_bias.sub_(_median_logits(model) / model.mask_decoder.config.logit_scale)
    return model


def _median_logits(model: Sam) -> torch.Tensor:
    """(4,): of each mask, over a box and a click on a photo. Cut there, masks are neither empty nor the whole photo."""
    spec = model.spec
    image, (height, width) = preprocess(read_photo(ASSETS / "photos" / "coffee.jpg"), spec)
    box = torch.tensor([[width / 4, height / 4], [3 * width / 4, 3 * height / 4]])
    click = torch.tensor([[width / 2, height / 2], [0.0, 0.0]])
    labels = torch.tensor([[LABEL_BOX_TOP_LEFT, LABEL_BOX_BOTTOM_RIGHT], [LABEL_FOREGROUND, LABEL_EMPTY]]).float()
    masks = torch.zeros(2, 1, spec.mask_size, spec.mask_size)
    prompts = torch.stack([box, click]), labels, masks, torch.zeros(2)
    logits = model.decode(model.encode(torch.from_numpy(image)), *prompts)[0]
    inside = logits[..., : height // MASK_STRIDE, : width // MASK_STRIDE]
    return inside.transpose(0, 1).flatten(1).median(1).values


@pytest.fixture(scope="session")
def nano_files(nano: Sam) -> dict[str, bytes]:
    return to_onnx_bytes(nano)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """The order of torch's sums, and so the last bits, depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def photos() -> list[Photo]:
    """The bundled ones."""
    return [read_photo(path) for path in sorted((ASSETS / "photos").glob("*.jpg"))]


@pytest.fixture(scope="session")
def model() -> Sam:
    """nano as released, with weights that float16 holds, so that float16 files differ from it by nothing else."""
    return exported_values(load_checkpoint(NANO_WEIGHTS), "float16")
