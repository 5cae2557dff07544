"""nano's trunks: where their features are, and what they are made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sam_edge.errors import CheckpointError
from sam_edge.model.config import NanoEncoderConfig
from sam_edge.model.registry import MODELS, build_model
from sam_edge.model.scaled_conv import ScaledConv, fold_scales
from sam_edge.model.trunks import TRUNKS, Trunk


@pytest.mark.parametrize("name", sorted(TRUNKS))
def test_a_trunk_has_features_of_its_plans_channels_at_strides_4_to_32(name: str) -> None:
    plan = TRUNKS[name]
    assert list(plan.channels) == [4, 8, 16, 32]
    with torch.inference_mode():
        features = Trunk(plan).eval()(torch.randn(2, 3, 96, 64))
    assert [tuple(f.shape) for f in features] == [(2, c, 96 // s, 64 // s) for s, c in plan.channels.items()]


def test_efficientnet_lite0_is_the_published_network_without_its_last_block() -> None:
    plan = TRUNKS["efficientnet_lite0"]
    assert plan.taps == {4: 2, 8: 4, 16: 10, 32: 14}
    assert sum(p.numel() for p in Trunk(plan).parameters()) == 2_336_304


@pytest.mark.parametrize("name", sorted(TRUNKS))
def test_every_operation_of_a_trunk_is_a_convolution_an_addition_or_relu6(name: str) -> None:
    with torch.no_grad():
        program = torch.export.export(Trunk(TRUNKS[name]).eval(), (torch.randn(1, 3, 64, 64),)).run_decompositions()
    called = {node.target.__name__ for node in program.graph.nodes if node.op == "call_function"}
    # mul is the weights' scale, which an export folds; pad is stride 2's; hardtanh is ReLU6
    assert called <= {"convolution.default", "mul.Tensor", "constant_pad_nd.default", "clamp.default", "add.Tensor"} | {
        "hardtanh.default"
    }


@pytest.mark.parametrize("name", sorted(TRUNKS))
def test_folding_the_scales_changes_nothing_a_trunk_computes(name: str) -> None:
    torch.manual_seed(0)
    trunk, image = Trunk(TRUNKS[name]).eval(), torch.randn(1, 3, 64, 64)
    convs = [module for module in trunk.modules() if isinstance(module, ScaledConv)]
    for conv in convs:
        nn.init.uniform_(conv.scale, 0.2, 0.6)
    with torch.inference_mode():
        before: list[Tensor] = trunk(image)
        fold_scales(trunk)
        after: list[Tensor] = trunk(image)
    assert all(bool((conv.scale == 1).all()) for conv in convs)
    for got, want in zip(after, before, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(TRUNKS))
def test_frozen_blocks_and_depthwise_filters_have_no_gradient(name: str) -> None:
    trunk = Trunk(TRUNKS[name]).train()
    trunk.freeze(2, depthwise=True)
    sum(f.square().mean() for f in trunk(torch.randn(1, 3, 64, 64))).backward()
    learnt = {parameter: parameter.grad is not None for parameter in trunk.parameters()}
    fixed = {
        p for n, p in trunk.named_parameters() if n.startswith(("stem", "blocks.0.", "blocks.1.")) or "depthwise.w" in n
    }
    assert fixed and all(learnt[p] == (p not in fixed) for p in learnt)


def test_a_trunk_nobody_knows_is_said_with_those_there_are() -> None:
    config = replace(MODELS["nano"], encoder=NanoEncoderConfig(trunk="resnet"))
    with pytest.raises(CheckpointError, match=r"'resnet' is not a trunk, expected one of: efficientnet_lite0, "):
        build_model(config)
