"""First weights for nano: the ImageNet trunk, or the trial model that came before it.

`python -m sam_edge.train.warm_start trunk EFFICIENTNET.safetensors -o START.safetensors`
`python -m sam_edge.train.warm_start trial TRIAL.safetensors --data TRAIN -o START.safetensors`
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from sam_edge.evaluate.dataset import Record, open_records
from sam_edge.image import preprocess
from sam_edge.model.checkpoints import save_checkpoint
from sam_edge.model.nano import NanoEncoder
from sam_edge.model.registry import build_model, model_config
from sam_edge.model.sam import Sam

__all__ = ["load_trial", "load_trunk"]

BATCH_NORM_EPS = 1e-3  # of EfficientNet-Lite0
TRIAL_PARTS = {"exp": "expand", "dw": "depthwise", "proj": "project"}


def load_trunk(model: Sam, weights: Mapping[str, Tensor]) -> None:
    """Put EfficientNet-Lite0's weights (`blocks.{i}.{expand,depthwise,project}.{conv,bn}.*`) into nano's trunk."""
    trunk = _encoder(model).trunk
    names = ["stem", *(f"blocks.{i}.{part}" for i in range(len(trunk.blocks)) for part in TRIAL_PARTS.values())]
    for name in names:
        if f"{name}.conv.weight" not in weights:
            continue  # the first block has no expansion
        conv: Any = trunk.get_submodule(name)
        norm = {k: weights[f"{name}.bn.{k}"].float() for k in ("weight", "bias", "running_mean", "running_var")}
        scale = norm["weight"] / torch.sqrt(norm["running_var"] + BATCH_NORM_EPS)
        _set(conv.weight, weights[f"{name}.conv.weight"])
        _set(conv.scale, scale.view(-1, 1, 1, 1))
        _set(conv.bias, norm["bias"] - norm["running_mean"] * scale)


def load_trial(model: Sam, weights: Mapping[str, Tensor], records: Sequence[Record]) -> None:
    """Put the trial model's weights into nano.

    The trial normalised its neck over whole maps; nano's neck has no norm. The statistics of `records` (training
    photos) take the norms' place, multiplied into the convolutions before them. What nano does differently (layer norm
    a pixel in the decoder, a separable convolution, a head that looks at the mask) is approximated or starts fresh.
    """
    w = {name: value.float() for name, value in weights.items()}
    encoder = _encoder(model)
    decoder: Any = model.mask_decoder
    prompts: Any = model.prompt_encoder
    _trunk_from_trial(encoder, w)
    _neck_from_trial(encoder, w, model, records)

    _set(prompts.pe_layer.positional_encoding_gaussian_matrix, w["gauss"])
    for label in range(4):
        _set(prompts.point_embeddings[label].weight, w["pt.weight"][label : label + 1])
    _set(prompts.not_a_point_embed.weight, w["pt.weight"][4:5])
    _set(prompts.no_mask_embed.weight, w["nomask"].flatten(1))
    for index in (0, 1, 3, 4, 6):
        source = f"mdown.{index}." if index in (0, 3, 6) else f"mdown.{index}.g."
        _set_module(prompts.mask_downscaling[index], w, source)

    _set(decoder.iou_token.weight, w["out"][:1])
    _set(decoder.mask_tokens.weight, w["out"][1:])
    for index, layer in enumerate(decoder.transformer.layers):
        source = f"layers.{index}."
        _attention(layer.self_attn, w, f"{source}sa.")
        _attention(layer.cross_attn_token_to_image, w, f"{source}t2i.")
        _attention(layer.cross_attn_image_to_token, w, f"{source}i2t.")
        _set_module(layer.mlp.lin1, w, f"{source}mlp.0.")
        _set_module(layer.mlp.lin2, w, f"{source}mlp.2.")
        for number in range(1, 5):
            _set_module(getattr(layer, f"norm{number}"), w, f"{source}n{number}.")
    _attention(decoder.transformer.final_attn_token_to_image, w, "fin.")
    _set_module(decoder.transformer.norm_final_attn, w, "nf.")
    _set_module(decoder.output_upscaling[0], w, "up1.")
    _set_module(decoder.output_upscaling[1], w, "nu.g.")
    _set_module(decoder.output_upscaling[3], w, "up2.")
    _set_module(decoder.dense_to_embedding[0], w, "dm16.0.")
    _set_module(decoder.dense_to_embedding[2], w, "dm16.2.")
    _set_module(decoder.dense_to_upscaled, w, "dm4.")
    _separable(decoder.refine, w["mix.weight"], w["mix.bias"])
    for index, mlp in enumerate(decoder.output_hypernetworks_mlps):
        for layer_index, layer in enumerate(mlp.layers):
            _set_module(layer, w, f"hyper.{index}.{2 * layer_index}.")
        with torch.no_grad():  # the trial divided its logits by sqrt(32) and subtracted 1
            mlp.layers[-1].weight /= math.sqrt(32)
            mlp.layers[-1].bias /= math.sqrt(32)
    _set(decoder.mask_bias, torch.full((4,), -1.0))
    for layer_index, layer in enumerate(decoder.iou_prediction_head.layers):
        _set_module(layer, w, f"iou.{2 * layer_index}.")


def _trunk_from_trial(encoder: NanoEncoder, w: Mapping[str, Tensor]) -> None:
    for name, conv in [("stem", encoder.trunk.stem)] + [
        (f"blocks.{i}.{short}", getattr(block, part))
        for i, block in enumerate(encoder.trunk.blocks)
        for short, part in TRIAL_PARTS.items()
        if getattr(block, part) is not None
    ]:
        for field in ("weight", "scale", "bias"):
            _set(getattr(conv, field), w[f"trunk.{name}.{field}"])


def _neck_from_trial(encoder: NanoEncoder, w: Mapping[str, Tensor], model: Sam, records: Sequence[Record]) -> None:
    """Multiply each whole-map norm's mean statistics into the convolution before it, one after the other."""
    for conv, source in ((encoder.lateral_16, "l16."), (encoder.lateral_32, "l32."), (encoder.neck, "neck.1.")):
        _set_module(conv, w, source)
    _set_module(encoder.skip_8, w, "sk8.0.")
    _set_module(encoder.skip_4, w, "sk4.0.")
    images = torch.from_numpy(np.concatenate([preprocess(r.photo(), model.spec)[0] for r in records]))
    with torch.inference_mode():
        at_4, at_8, at_16, at_32 = (torch.cat(t) for t in zip(*(encoder.trunk(i[None]) for i in images), strict=True))
        resize = torch.nn.functional.interpolate
        merged = encoder.lateral_16(at_16) + resize(
            encoder.lateral_32(at_32), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        _fold_norm([encoder.lateral_16, encoder.lateral_32], merged, w, "ne.g.")
        merged = encoder.lateral_16(at_16) + resize(
            encoder.lateral_32(at_32), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        _fold_norm([encoder.neck], encoder.neck(torch.relu(merged)), w, "neck.2.g.")
        _fold_norm([encoder.skip_8], encoder.skip_8(at_8), w, "sk8.1.g.")
        _fold_norm([encoder.skip_4], encoder.skip_4(at_4), w, "sk4.1.g.")


def _fold_norm(convs: list[torch.nn.Conv2d], output: Tensor, w: Mapping[str, Tensor], norm: str) -> None:
    """`output` is the sum of the convolutions: afterwards it is normalised by its mean statistics over the photos."""
    mean, std = output.mean((1, 2, 3)).mean(), output.std((1, 2, 3)).mean()
    scale = w[f"{norm}weight"] / std
    for conv in convs:
        conv.weight *= scale.view(-1, 1, 1, 1)
        assert conv.bias is not None
        conv.bias *= scale
    assert convs[0].bias is not None
    convs[0].bias += w[f"{norm}bias"] - mean * scale


def _separable(refine: torch.nn.Module, weight: Tensor, bias: Tensor) -> None:
    """The closest depthwise-separable convolution to `weight` (O, I, 3, 3): rank one for each input channel."""
    depthwise, pointwise = refine[0], refine[1]  # type: ignore[index]
    u, s, v = torch.linalg.svd(
        weight.permute(1, 0, 2, 3).flatten(2), full_matrices=False
    )  # (I, O, r), (I, r), (I, r, 9)
    root = s[:, :1].sqrt()
    _set(pointwise.weight, (u[:, :, 0] * root).T[:, :, None, None])
    _set(pointwise.bias, bias)
    _set(depthwise.weight, (v[:, 0] * root).view(-1, 1, 3, 3))


def _attention(attention: torch.nn.Module, w: Mapping[str, Tensor], source: str) -> None:
    for short in ("q", "k", "v"):
        _set_module(attention.get_submodule(f"{short}_proj"), w, f"{source}{short}.")
    _set_module(attention.get_submodule("out_proj"), w, f"{source}o.")


def _set_module(module: torch.nn.Module, w: Mapping[str, Tensor], source: str) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        _set(parameter, w[source + name])


def _set(target: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        if target.shape != value.shape:
            raise ValueError(f"got a tensor of shape {tuple(value.shape)}, expected {tuple(target.shape)}")
        target.copy_(value)


def _encoder(model: Sam) -> NanoEncoder:
    assert isinstance(model.image_encoder, NanoEncoder)
    return model.image_encoder


@click.command()
@click.argument("kind", type=click.Choice(["trunk", "trial"]))
@click.argument("weights", type=click.Path(exists=True, path_type=Path))
@click.option("--data", multiple=True, help="Training photos (SA-1B folders or tars), for the trial model.")
@click.option("-o", "out", type=click.Path(path_type=Path), required=True)
def main(kind: str, weights: Path, data: tuple[str, ...], out: Path) -> None:
    """Write nano's first weights."""
    from safetensors.torch import load_file

    torch.manual_seed(0)
    config = model_config("nano")
    if kind == "trunk":
        model = build_model(config)
        load_trunk(model, load_file(weights))
    else:  # the trial had no ellipse; `sam-edge train --init` adds it
        model = build_model(replace(config, decoder=replace(config.decoder, box_ellipse=False)))
        load_trial(model, load_file(weights), open_records(data)[::45])
    save_checkpoint(model, out)


if __name__ == "__main__":
    main()
