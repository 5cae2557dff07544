"""What is compared in an ablation: groups of configurations that differ from `nano` in one thing each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from sam_edge.model.config import DecoderConfig, ModelConfig, NanoEncoderConfig
from sam_edge.model.registry import MODELS
from sam_edge.model.trunks import TRUNKS

__all__ = ["GROUPS", "Group", "Variant"]

# How often photos of each source are drawn; the last two have masks that `nano` drew (`sam-edge label`), for boxes that
# people drew and for what everything mode found.
PEOPLES_MASKS = {
    "coco": 0.4,
    "bsds": 0.2,
    "duts": 0.2,
    "cocoperson": 0.1,
    "ccp": 0.1,
    "cocobox": 0.0,
    "everything": 0.0,
}
OWN_SHARE = 0.35  # of photos with nano's masks


@dataclass(frozen=True)
class Variant:
    """A model, and what its TrainConfig has that the schedule's has not."""

    config: ModelConfig
    training: dict[str, Any] = field(default_factory=lambda: {"source_weights": PEOPLES_MASKS})


@dataclass(frozen=True)
class Group:
    """Variants by name, compared with the first."""

    about: str
    variants: dict[str, Variant]


def _changed(encoder: dict[str, object] | None = None, decoder: dict[str, object] | None = None) -> Variant:
    nano = MODELS["nano"]
    ours = nano.encoder
    assert isinstance(ours, NanoEncoderConfig)
    changed_encoder: Callable[..., NanoEncoderConfig] = replace
    changed_decoder: Callable[..., DecoderConfig] = replace
    return Variant(
        replace(
            nano, encoder=changed_encoder(ours, **encoder or {}), decoder=changed_decoder(nano.decoder, **decoder or {})
        )
    )


def _width(dim: int) -> Variant:
    return _changed({"dim": dim}, {"dim": dim, "mlp_dim": 4 * dim, "iou_head_hidden_dim": dim})


def _taught(**training: object) -> Variant:
    return Variant(MODELS["nano"], {"source_weights": PEOPLES_MASKS} | training)


def _with_own(source: str) -> Variant:
    peoples = {name: (1 - OWN_SHARE) * share for name, share in PEOPLES_MASKS.items()}
    return _taught(source_weights=peoples | {source: OWN_SHARE})


GROUPS: dict[str, Group] = {
    "encoders": Group(
        "Trunks under equal latency",
        variants={trunk: _changed({"trunk": trunk}) for trunk in TRUNKS},
    ),
    "parts": Group(
        "`nano` without one of its parts, or of another width",
        variants={
            "nano": _changed(),
            "without prompt maps": _changed(decoder={"dense_prompts": False, "box_ellipse": False, "box_bias": False}),
            "without the ellipse": _changed(decoder={"box_ellipse": False}),
            "without the pixel path": _changed({"pixel_path": ()}),
            "without features at strides 4 and 8": _changed(
                {"pixel_path": (), "high_res_channels": ()}, {"high_res_channels": ()}
            ),
            "width 64": _width(64),
            "width 192": _width(192),
        },
    ),
    "judging": Group(
        "Masks judged in finer cells than the logits' own of 4 px, and photos drawn by their objects",
        variants={
            "cells of 4 px": _taught(loss_stride=4),
            "cells of 2 px": _taught(loss_stride=2),
            "pixels": _taught(loss_stride=1),
            "pixels, photos by objects": _taught(loss_stride=1, by_objects=True),
        },
    ),
    "labels": Group(
        "Masks that people drew, and in a third of the photos masks that `nano` drew",
        variants={
            "people's masks": _changed(),
            "nano's masks of boxes, too": _with_own("cocobox"),
            "what everything mode finds, too": _with_own("everything"),
        },
    ),
}
