"""One export for all tests: tracing a decoder takes many seconds."""

from __future__ import annotations

import pytest
import torch

from sam_edge.export.to_onnx import to_onnx_bytes
from sam_edge.model.sam import Sam
from tests.tiny_models import tiny_model


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
        model.mask_decoder.mask_bias.sub_(6.0)
    return model


@pytest.fixture(scope="session")
def nano_files(nano: Sam) -> dict[str, bytes]:
    return to_onnx_bytes(nano)
