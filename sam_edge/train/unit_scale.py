"""A start for trunks that nobody has trained: every convolution's output has mean 0 and deviation 1 on some photos.

What batch norm would do at the first step, written into the fixed scales and the biases once (data-dependent
initialisation: Salimans and Kingma, arXiv 1602.07868, section 3; Mishkin and Matas, arXiv 1511.06422).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sam_edge.contract import ModelSpec
from sam_edge.errors import DataError, ImageError
from sam_edge.evaluate.dataset import Record, drawn_evenly
from sam_edge.image import preprocess
from sam_edge.model.scaled_conv import ScaledConv

__all__ = ["bring_to_unit_scale"]

PHOTOS = 8
SMALLEST_DEVIATION = 1e-3  # of a channel that sees nothing on these photos


@torch.no_grad()
def bring_to_unit_scale(module: nn.Module, records: Sequence[Record], spec: ModelSpec) -> None:
    """Set `scale` and `bias` of every ScaledConv of `module`, first to last, from one pass over a few photos.

    module: image (n, 3, S, S) -> anything. spec: how photos become images. Photos that cannot be read are left out;
    raises DataError where that leaves none.
    """
    images = torch.from_numpy(np.concatenate(list(_images(drawn_evenly(records, PHOTOS), spec))))
    hooks = [conv.register_forward_hook(_set_from_output) for conv in module.modules() if isinstance(conv, ScaledConv)]
    try:
        module(images)
    finally:
        for hook in hooks:
            hook.remove()


def _images(records: Sequence[Record], spec: ModelSpec) -> Iterator[NDArray[np.float32]]:
    last, read = "", 0
    for record in records:
        try:
            yield preprocess(record.photo(), spec)[0]
            read += 1
        except (DataError, ImageError) as error:
            last = str(error)
    if not read:
        raise DataError(f"none of {len(records)} photos can be read; the last was {last}")


def _set_from_output(conv: ScaledConv, inputs: tuple[Tensor, ...], output: Tensor) -> Any:
    """Called after `conv` has run: what it returns takes the output's place, so that the next sees the new scale."""
    relu6, conv.relu6 = conv.relu6, False
    try:
        before = conv.forward(*inputs) - conv.bias.view(-1, 1, 1)
    finally:
        conv.relu6 = relu6
    deviation, mean = torch.std_mean(before, (0, 2, 3), correction=0)
    deviation = deviation.clamp(min=SMALLEST_DEVIATION)
    conv.scale /= deviation.view(-1, 1, 1, 1)
    conv.bias.copy_(-mean / deviation)
    scaled = (before - mean.view(-1, 1, 1)) / deviation.view(-1, 1, 1)
    return F.relu6(scaled) if relu6 else scaled
