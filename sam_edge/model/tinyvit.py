"""MobileSAM's image encoder (arXiv 2306.14289): TinyViT (arXiv 2207.10666) with its last stage kept at stride 16.

Four stages at strides 4, 8, 16 and 16: the first of inverted residual convolutions, the others of windowed attention
with a learned bias per distance and a depthwise convolution. Maps between attention blocks are (n, H, W, C).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_edge.model.config import TinyViTConfig
from sam_edge.model.layers import LayerNorm2d
from sam_edge.model.vit import kernels, window_partition, window_unpartition

__all__ = ["TinyViT"]

STAGE_STRIDES = (2, 2, 1)  # of the steps between the four stages, after a patch embedding of stride 4
MBCONV_EXPANSION = 4


class ConvBN(nn.Sequential):
    """A convolution without bias and its batch norm; `c` and `bn` are the names in public files."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = kernel // 2
        self.add_module("c", nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(out_channels))


class PatchEmbed(nn.Module):
    """Two convolutions of stride 2: (n, 3, S, S) -> (n, dim, S/4, S/4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvBN(3, dim // 2, 3, 2), nn.GELU(), ConvBN(dim // 2, dim, 3, 2))

    def forward(self, image: Tensor) -> Tensor:
        return self.seq(image)  # type: ignore[no-any-return]


class MBConv(nn.Module):
    """Inverted residual whose last GELU follows the addition; (n, C, H, W)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = MBCONV_EXPANSION * dim
        self.conv1 = ConvBN(dim, width)
        self.conv2 = ConvBN(width, width, 3, groups=width)
        self.conv3 = ConvBN(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(inner))


class PatchMerging(nn.Module):
    """To the next stage's channels and stride: (n, C, H, W) -> (n, H', W', C')."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(in_channels, out_channels)
        self.conv2 = ConvBN(out_channels, out_channels, 3, stride, groups=out_channels)
        self.conv3 = ConvBN(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return x.permute(0, 2, 3, 1)


def window_distances(size: int) -> Tensor:
    """Which bias a pair of tokens of a size x size window takes: |dy| * size + |dx|, (size ** 2, size ** 2) int64."""
    places = torch.arange(size, device="cpu")  # named, so that a model built on the meta device has its index
    apart = (places[:, None] - places[None, :]).abs()
    index = apart[:, None, :, None] * size + apart[None, :, None, :]  # (y, x, y', x')
    return index.reshape(size * size, size * size)


class Attention(nn.Module):
    """Attention within a window, with the norm before it and a bias per head and distance."""

    distances: Tensor
    attention = "auto"  # one of kernels.ATTENTION_PATHS, set by Sam.use_attention

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_size**2))
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("distances", window_distances(window_size), persistent=False)

    def forward(self, windows: Tensor) -> Tensor:
        """windows (n, size ** 2, dim) -> the same shape. Biases are looked up every time: no cache can go stale."""
        heads = self.qkv(self.norm(windows)).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        q, k, v = heads.chunk(3, dim=-1)  # (n, heads, size ** 2, dim / heads): rows of qkv are (heads, 3, dim)
        bias = self.attention_biases[:, self.distances].unsqueeze(0)  # (1, heads, size ** 2, size ** 2)
        if self.attention == "reference":
            out = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5 + bias).softmax(3) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def attend_in_windows(self, x: Tensor, size: int) -> Tensor:
        """x (n, H, W, dim) -> the same shape, on the kernel's path: no window is cut out.

        What fills windows up is the norm's bias gone through `qkv`: the norm of zeros.
        """
        qkv = self.qkv(self.norm(x))
        padding, bias = self.qkv(self.norm.bias).to(qkv.dtype), self.attention_biases.to(qkv.dtype)
        out = kernels.window_attention(qkv, padding, (bias,), size, self.num_heads, heads_first=True)
        return self.proj(out)  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Norm, two linear layers, a GELU between them."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))  # type: ignore[no-any-return]


class TinyViTBlock(nn.Module):
    """Windowed attention, a depthwise convolution without a residual, an MLP; (n, H, W, dim)."""

    def __init__(self, dim: int, num_heads: int, window_size: int, mlp_ratio: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.attn = Attention(dim, num_heads, window_size)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        self.local_conv = ConvBN(dim, dim, 3, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Zeros are padded before the attention's norm: padded tokens enter `qkv` as that norm's bias and take part."""
        size, attn = self.window_size, self.attn
        if kernels.choose_window_path(attn.attention, x, size, attn.num_heads, learned=True) == "triton":
            x = x + attn.attend_in_windows(x, size)
        else:
            windows = window_partition(x, size)
            attended = attn(windows.flatten(1, 2)).unflatten(1, (size, size))
            x = x + window_unpartition(attended, (x.shape[1], x.shape[2]))
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.mlp(x)  # type: ignore[no-any-return]


class ConvStage(nn.Module):
    """The first stage: convolutions, then the step to the next one; (n, C, H, W) -> (n, H', W', C')."""

    def __init__(self, dim: int, depth: int, downsample: PatchMerging) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MBConv(dim) for _ in range(depth))
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)  # type: ignore[no-any-return]


class AttentionStage(nn.Module):
    """Attention blocks, then, but for the last stage, the step to the next one; (n, H, W, C) -> (n, H', W', C')."""

    def __init__(
        self, dim: int, depth: int, num_heads: int, window_size: int, mlp_ratio: int, downsample: PatchMerging | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TinyViTBlock(dim, num_heads, window_size, mlp_ratio) for _ in range(depth))
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x.permute(0, 3, 1, 2))


class TinyViT(nn.Module):
    """image (n, 3, S, S) -> (image_embeddings (n, out_channels, S/16, S/16),); any S that is a multiple of 16."""

    def __init__(self, config: TinyViTConfig) -> None:
        super().__init__()
        self.config = config
        dims = config.embed_dims
        first, *steps = [
            PatchMerging(a, b, stride) for (a, b), stride in zip(pairwise(dims), STAGE_STRIDES, strict=True)
        ]
        attention = zip(dims[1:], config.depths[1:], config.num_heads, config.window_sizes, [*steps, None], strict=True)
        self.patch_embed = PatchEmbed(dims[0])
        self.layers = nn.ModuleList(
            [
                ConvStage(dims[0], config.depths[0], first),
                *(
                    AttentionStage(dim, depth, heads, size, config.mlp_ratio, step)
                    for dim, depth, heads, size, step in attention
                ),
            ]
        )
        # The classifier of its ImageNet training: unused, but public files hold it and load strictly.
        self.norm_head = nn.LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], config.num_classes)
        for unused in (self.norm_head, self.head):
            unused.requires_grad_(False)  # or several training processes would wait for gradients that never come
        self.neck = nn.Sequential(
            nn.Conv2d(dims[-1], config.out_channels, kernel_size=1, bias=False),
            LayerNorm2d(config.out_channels),
            nn.Conv2d(config.out_channels, config.out_channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(config.out_channels),
        )

    def forward(self, image: Tensor) -> tuple[Tensor]:
        x = self.patch_embed(image)  # (n, C, H, W)
        for stage in self.layers:
            x = stage(x)
        return (self.neck(x.permute(0, 3, 1, 2)),)
