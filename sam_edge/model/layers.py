"""Small layers that several parts share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "LayerNorm2d", "MLPBlock"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of (n, C, h, w), at every place."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - channel_mean(x)
        variance = channel_mean(centred * centred)
        x = centred / torch.sqrt(variance + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


def channel_mean(x: Tensor) -> Tensor:
    """(n, C, h, w) -> (n, 1, h, w).

    In evaluation a matrix product: runtimes are slow at means over a dimension that is not the last (ONNX Runtime 0.75
    ms for nano's 64 x 64 x 64, a sixth of a click in all; as a product 0.02 ms).
    """
    if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):  # which would make the product a half
        return x.mean(1, keepdim=True)
    weights = torch.full((1, x.shape[1]), 1 / x.shape[1], dtype=x.dtype, device=x.device)
    return (weights @ x.flatten(2)).reshape(x.shape[0], 1, *x.shape[2:])


class MLPBlock(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, dim: int, hidden_dim: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden_dim)
        self.lin2 = nn.Linear(hidden_dim, dim)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.activation(self.lin1(x)))  # type: ignore[no-any-return]
