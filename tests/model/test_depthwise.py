from __future__ import annotations

import pytest
import torch

from sam_edge.model.depthwise import trained_depthwise


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"), [(9, 5, 1, 2), (11, 5, 2, 0), (10, 3, 2, 0), (8, 3, 1, 1)]
)
def test_its_gradients_are_those_of_the_plain_convolution(side: int, kernel: int, stride: int, padding: int) -> None:
    x = torch.randn(2, 6, side, side + 2, requires_grad=True)
    weight = torch.randn(6, 1, kernel, kernel, requires_grad=True)
    ours = trained_depthwise(x, weight, stride, padding)
    plain = torch.conv2d(x, weight, None, stride, padding, 1, 6)
    assert torch.equal(ours, plain)
    towards = torch.randn_like(plain)
    for got, expected in zip(
        torch.autograd.grad(ours, (x, weight), towards), torch.autograd.grad(plain, (x, weight), towards), strict=True
    ):
        assert torch.allclose(got, expected, atol=1e-4)


def test_a_fixed_filter_gets_no_gradient_and_its_input_does() -> None:
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    trained_depthwise(x, torch.randn(4, 1, 3, 3), 1, 1).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
