"""Tokens and image embedding to masks and their predicted IoU (Segment Anything, arXiv 2304.02643, appendix A)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from sam_edge.contract import EMBEDDING_STRIDE, MASK_STRIDE, NUM_MASKS
from sam_edge.model.config import DecoderConfig
from sam_edge.model.dense_prompts import NUM_DENSE_PROMPT_MAPS, box_alone
from sam_edge.model.layers import ACTIVATIONS, LayerNorm2d
from sam_edge.model.transformer import TwoWayTransformer

__all__ = ["MaskDecoder"]


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> None:
        super().__init__()
        dims = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)  # type: ignore[no-any-return]


class MaskIoUHead(nn.Module):
    """Corrects the IoU that the token predicts by looking at the mask that was drawn.

    A token says how hard the prompt is; how sharp the mask came out can only be seen on the mask. Seen are the mean
    stride-4 features inside it and around it, how undecided its pixels are, and its area. Idea of mask scoring: Huang
    et al., arXiv 1903.00241. No gradient flows into the mask through here.
    """

    def __init__(self, dim: int, feature_channels: int, hidden_dim: int) -> None:
        super().__init__()
        self.mlp = MLP(2 * dim + 2 * feature_channels + 4, hidden_dim, 1, num_layers=3)
        for parameter in self.mlp.layers[-1].parameters():
            nn.init.zeros_(parameter)  # starts as the token's prediction, unchanged

    def forward(self, iou_token: Tensor, mask_tokens: Tensor, upscaled: Tensor, masks: Tensor) -> Tensor:
        """(B, 1, dim), (B, 4, dim), (B, C, h, w), logits (B, 4, h, w) -> correction (B, 4)."""
        features = upscaled.detach().flatten(2)  # (B, C, hw)
        logits = masks.detach().flatten(2)  # (B, 4, hw)
        soft = torch.sigmoid(logits)
        area = soft.mean(2, keepdim=True)  # (B, 4, 1), share of the frame
        inside = (soft / features.shape[2]) @ features.transpose(1, 2) / (area + 1e-4)  # (B, 4, C)
        overall = features.mean(2).unsqueeze(1).expand(-1, NUM_MASKS, -1)
        undecided = (soft * (1 - soft)).mean(2, keepdim=True) / (area + 1e-4)
        core = torch.sigmoid(logits - 2).mean(2, keepdim=True) / (area + 1e-4)  # how much stays when cut higher
        halo = area / (torch.sigmoid(logits + 2).mean(2, keepdim=True) + 1e-4)
        seen = torch.cat([undecided, core, halo, torch.sqrt(area)], dim=2)
        tokens = torch.cat([iou_token.expand(-1, NUM_MASKS, -1), mask_tokens], dim=2)
        return self.mlp(torch.cat([tokens, inside, overall, seen], dim=2)).squeeze(2)  # type: ignore[no-any-return]


class MaskDecoder(nn.Module):
    """SAM's mask decoder; with `DecoderConfig`'s extras also nano's."""

    map_readers = ("mask_decoder.dense_to_embedding.0.weight", "mask_decoder.dense_to_upscaled.weight")  # in a model

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        dim, (mid, out), activation = config.dim, config.upscaled_channels, ACTIVATIONS[config.activation]
        self.transformer = TwoWayTransformer(config)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(NUM_MASKS, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, mid, kernel_size=2, stride=2),
            LayerNorm2d(mid),
            activation(),
            nn.ConvTranspose2d(mid, out, kernel_size=2, stride=2),
            activation(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(dim, dim, out, 3) for _ in range(NUM_MASKS))
        self.iou_prediction_head = MLP(dim, config.iou_head_hidden_dim, NUM_MASKS, config.iou_head_depth)
        if config.dense_prompts:
            maps = NUM_DENSE_PROMPT_MAPS + config.box_ellipse
            self.dense_to_embedding = nn.Sequential(
                nn.Conv2d(maps, 64, kernel_size=1), activation(), nn.Conv2d(64, dim, kernel_size=1)
            )
            self.dense_to_upscaled = nn.Conv2d(maps, out, kernel_size=1)
        if config.refine:
            self.refine = nn.Sequential(
                nn.Conv2d(out, out, kernel_size=3, padding=1, groups=out, bias=False),
                nn.Conv2d(out, out, kernel_size=1),
                nn.ReLU(),
            )
        if config.mask_iou_head:
            self.mask_iou_head = MaskIoUHead(dim, out, hidden_dim=64)
        if config.high_res_channels:
            self.mask_bias = nn.Parameter(torch.zeros(NUM_MASKS))
        if config.box_bias:
            self.box_bias = nn.Parameter(torch.zeros(NUM_MASKS))

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse: Tensor,
        sparse_bias: Tensor,
        dense: Tensor,
        high_res_features: tuple[Tensor, ...] = (),
        dense_maps: dict[int, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """-> low_res_masks (B, 4, S/4, S/4) logits, iou_predictions (B, 4).

        image_embeddings (1 or B, dim, h, w), image_pe (1, dim, h, w), sparse (B, N, dim), sparse_bias (B, 1, 1, N),
        dense (B, dim, h, w), high_res_features at strides 4 and 8, dense_maps by stride (16 and 4).
        """
        batch = sparse.shape[0]
        outputs = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).unsqueeze(0).expand(batch, -1, -1)
        tokens = torch.cat([outputs, sparse], dim=1)
        bias = torch.cat([torch.zeros_like(outputs[:, :, 0])[:, None, None, :], sparse_bias], dim=3)

        image = image_embeddings + dense
        if dense_maps is not None:
            image = image + self.dense_to_embedding(dense_maps[EMBEDDING_STRIDE])
        size = image.shape[2:]
        tokens, image = self.transformer(
            image.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2), tokens, bias
        )
        iou_token, mask_tokens = tokens[:, :1], tokens[:, 1 : 1 + NUM_MASKS]

        upscaled = self._upscale(image.transpose(1, 2).unflatten(2, size), high_res_features, dense_maps)
        weights = torch.stack([mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1)
        masks = (weights @ upscaled.flatten(2)).reshape(batch, NUM_MASKS, *upscaled.shape[2:])  # (B, 4, S/4, S/4)
        if self.config.high_res_channels:
            masks = masks + self.mask_bias[:, None, None]
        if self.config.box_bias and dense_maps is not None:
            masks = masks + self.box_bias[:, None, None] * box_alone(dense_maps[MASK_STRIDE])

        iou = self.iou_prediction_head(iou_token[:, 0])
        if self.config.mask_iou_head:
            iou = iou + self.mask_iou_head(iou_token, mask_tokens, upscaled, masks)
        return masks * self.config.logit_scale, iou

    def _upscale(
        self, image: Tensor, high_res_features: tuple[Tensor, ...], dense_maps: dict[int, Tensor] | None
    ) -> Tensor:
        """(B, dim, S/16, S/16) -> (B, out, S/4, S/4)."""
        first, norm, activation, second, last_activation = self.output_upscaling
        x = first(image)
        if high_res_features:
            x = x + high_res_features[1]
        x = second(activation(norm(x)))
        fine = high_res_features[0] if high_res_features else 0
        if dense_maps is not None:
            # As a matrix product: with so few channels it takes a third of the convolution's time in ONNX Runtime.
            weight, bias = self.dense_to_upscaled.parameters()
            mixed = weight.flatten(1) @ dense_maps[MASK_STRIDE].flatten(2)  # (out, maps) @ (B, maps, hw)
            x = x + mixed.reshape(x.shape)
            fine = fine + bias[:, None, None]  # once for all prompts
        x = x + fine
        x = last_activation(x)
        if self.config.refine:
            x = x + self.refine(x)
        return x  # type: ignore[no-any-return]
