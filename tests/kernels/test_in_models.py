"""Whole models with and without kernels."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from sam_edge.errors import RuntimeUnavailable
from sam_edge.kernels import support
from sam_edge.model.config import DecoderConfig, ModelConfig, TinyViTConfig, ViTConfig
from sam_edge.model.registry import build_model
from sam_edge.model.sam import Sam
from tests.kernels.compare import DEVICE, assert_near

DECODER = DecoderConfig(dim=32, num_heads=2, mlp_dim=64, upscaled_channels=(16, 8), iou_head_hidden_dim=32)
CONFIGS = {  # windows that end beyond the map, a head of 80, grids of 6 x 6
    "vit": ModelConfig("vit", ViTConfig(80, 2, 1, (1,), image_size=96, window_size=4, out_channels=32), DECODER),
    "tinyvit": ModelConfig(
        "tinyvit",
        TinyViTConfig(96, (8, 16, 32, 64), (1, 1, 1, 1), (1, 2, 2), (7, 5, 4), num_classes=4, out_channels=32),
        DECODER,
    ),
}


def make_model(kind: str, attention: str = "auto") -> Sam:
    torch.manual_seed(0)
    model = build_model(CONFIGS[kind], attention=attention).to(DEVICE)
    for name, parameter in model.named_parameters():
        if "pos" in name or "bias" in name or "norm" in name:
            nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.2)
    return model


def make_image() -> Tensor:
    return torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1)).to(DEVICE)


def low_res_masks(model: Sam, image: Tensor) -> Tensor:
    prompts = (
        torch.tensor([[[40.0, 50.0]], [[10.0, 80.0]]]),
        torch.ones(2, 1),
        torch.zeros(2, 1, 24, 24),
        torch.zeros(2),
    )
    with torch.inference_mode():
        return model.decode(model.encode(image), *(x.to(DEVICE) for x in prompts))[0]


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_masks_are_the_same_on_every_path(kind: str) -> None:
    image = make_image()
    masks = {path: low_res_masks(make_model(kind, path), image) for path in ("reference", "sdpa", "triton")}
    for path in ("sdpa", "triton"):
        assert_near(masks[path], masks["reference"], 4, torch.float32)  # twice the rounding of a sum, per block
        a, b = masks[path] > 0, masks["reference"] > 0
        iou = (a & b).sum((2, 3)) / (a | b).sum((2, 3)).clamp(min=1)
        assert (iou[(a | b).any(3).any(2)] >= 0.999).all()


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_gradients_of_the_encoder_are_the_same_with_kernels(kind: str) -> None:
    grads = {}
    for path in ("sdpa", "triton"):
        model = make_model(kind, path)
        model.encode(make_image())[0].square().mean().backward()
        grads[path] = {name: x.grad for name, x in model.image_encoder.named_parameters() if x.grad is not None}
    assert grads["triton"].keys() == grads["sdpa"].keys()
    assert any("rel_pos" in name or "attention_biases" in name for name in grads["triton"])
    largest = torch.stack([grad.abs().max() for grad in grads["sdpa"].values()]).max()
    for name, want in grads["sdpa"].items():
        # Relative to the largest gradient: some are 0 but for rounding, as that of a key's bias.
        assert (grads["triton"][name] - want).abs().max() <= 1e-5 * largest, name


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_an_encoder_is_compiled_and_exported_with_its_kernels(kind: str) -> None:
    model, image = make_model(kind, "triton"), make_image()
    with torch.no_grad():
        (want,) = model.encode(image)
        (got,) = torch.compile(model.image_encoder, backend="aot_eager", fullgraph=True)(image)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        program = torch.export.export(model.image_encoder, (image,))
    found = {node.target for node in program.graph.nodes if "sam_edge" in str(node.target)}
    ops = {torch.ops.sam_edge.window_attention.default}
    assert found == ops | ({torch.ops.sam_edge.rel_pos_attention.default} if kind == "vit" else set())


def test_autocast_reaches_the_kernel_in_half_precision() -> None:
    image = make_image()
    with torch.inference_mode():
        (want,) = make_model("vit", "reference").encode(image)
        with torch.autocast(DEVICE, torch.bfloat16):
            (got,) = make_model("vit", "triton").encode(image)
    assert_near(got, want, 16, torch.bfloat16)  # of all layers together


@pytest.mark.skipif(DEVICE != "cpu", reason="of a machine without a GPU")
def test_auto_is_sdpa_on_the_cpu_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(support, "_said", set())
    image = make_image()
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("sam_edge.kernels")
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        with torch.inference_mode():
            (auto,), (sdpa,) = make_model("vit", "auto").encode(image), make_model("vit", "sdpa").encode(image)
            make_model("vit", "auto").encode(image)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    assert torch.equal(auto, sdpa)
    assert sorted(said) == [
        "global attention: sdpa (the tensors are on cpu)",
        "windowed attention: sdpa (the tensors are on cpu)",
    ]
    with pytest.raises(RuntimeUnavailable, match="qkv is on cpu, expected an NVIDIA GPU"):
        make_model("vit", "triton").encode(image)


def test_without_triton_auto_works_and_triton_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "has_triton", lambda: False)
    make_model("vit", "auto").encode(make_image())
    with pytest.raises(
        RuntimeUnavailable, match=r"Triton is not installed. Install it with: pip install 'sam-edge\[gpu\]'"
    ):
        make_model("vit", "triton").encode(make_image())


def test_an_unknown_path_is_refused() -> None:
    with pytest.raises(ValueError, match="attention is 'flash', expected one of: auto, triton, sdpa, reference"):
        make_model("vit", "flash")
