"""Deterministic pseudo-random parameters for the golden vectors.

The values of a tensor depend on the seed, its name and its shape alone: not on the
order of the tensors, on the platform, or on NumPy's own random generators. They come
from 64-bit integer arithmetic (SplitMix64 over a counter), one correctly rounded
float64 multiply and add, and one rounding to float32, so they are equal bit for bit
everywhere.

The scales are chosen so that activations stay in a healthy range through deep encoders
and so that prompts give smooth, non-trivial masks that depend on image and prompt: the
query and key projections of the decoder's self-attention and image-to-token attention
share most of their values, and the 2x2 kernels of the mask upscaling are nearly constant.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_CHUNK = 1 << 20
# Standard deviation of the sum of four independent integers uniform on [0, 65535].
_SUM_STD = math.sqrt(4 * (65536.0**2 - 1) / 12)


class Rule(NamedTuple):
    """How a tensor is filled: ``mean + std * noise`` for names matching ``pattern``.

    With ``fan_in`` the standard deviation is divided by the square root of the number
    of inputs that one output sums over. ``share`` names a (regular expression,
    replacement) pair applied to the tensor name to get the stream that it shares with
    its sibling. ``flat`` makes the values nearly constant over the last two axes.
    """

    pattern: str
    mean: float = 0.0
    std: float = 1.0
    fan_in: bool = False
    share: tuple[str, str] | None = None
    flat: bool = False


# The first rule whose pattern is found in the name wins.
RULES: tuple[Rule, ...] = (
    # Buffers and position parameters.
    Rule(r"\.running_mean$", 0.0, 0.1),
    Rule(r"\.running_var$", 1.0, 0.2),
    Rule(r"positional_encoding_gaussian_matrix$", 0.0, 0.7),
    Rule(r"image_encoder\.pos_embed$", 0.0, 0.5),
    Rule(r"\.rel_pos_[hw]$", 0.0, 0.1),
    Rule(r"\.attention_biases$", 0.0, 0.5),
    # Learned tokens.
    Rule(r"point_embeddings\.\d\.weight$", 0.0, 1.0),
    Rule(r"(not_a_point_embed|no_mask_embed)\.weight$", 0.0, 0.4),
    Rule(r"(iou_token|mask_tokens)\.weight$", 0.0, 1.0),
    # Mask decoder.
    Rule(r"mask_decoder\.transformer\.layers\.\d\.norm\d\.weight$", 0.5, 0.1),
    Rule(
        r"mask_decoder\.transformer\.layers\.\d\.self_attn\.out_proj\.weight$",
        0.0,
        0.7,
        fan_in=True,
    ),
    Rule(r"cross_attn_token_to_image\.out_proj\.weight$", 0.0, 0.4, fan_in=True),
    Rule(r"mask_decoder\.transformer\.layers\.\d\.mlp\.lin2\.weight$", 0.0, 0.5, fan_in=True),
    Rule(
        r"mask_decoder\.transformer\.layers\.\d\.self_attn\.[qk]_proj\.weight$",
        0.0,
        1.0,
        fan_in=True,
        share=(r"\.[qk]_proj\.", ".qk_proj."),
    ),
    Rule(
        r"cross_attn_image_to_token\.[qk]_proj\.weight$",
        0.0,
        1.6,
        fan_in=True,
        share=(r"\.[qk]_proj\.", ".qk_proj."),
    ),
    Rule(r"cross_attn_image_to_token\.out_proj\.weight$", 0.0, 2.0, fan_in=True),
    Rule(r"output_upscaling\.[03]\.weight$", 0.0, 1.0, fan_in=True, flat=True),
    Rule(r"output_upscaling\.3\.bias$", 0.0, 0.1),
    Rule(r"output_hypernetworks_mlps\.\d\.layers\.2\.weight$", 0.0, 4.0, fan_in=True),
    Rule(r"output_hypernetworks_mlps\.\d\.layers\.2\.bias$", -0.4, 0.4),
    Rule(
        r"(output_hypernetworks_mlps\.\d|iou_prediction_head)\.layers\.[01]\.weight$",
        0.0,
        1.4,
        fan_in=True,
    ),
    Rule(r"iou_prediction_head\.layers\.2\.weight$", 0.0, 0.15, fan_in=True),
    Rule(r"iou_prediction_head\.layers\.2\.bias$", 0.85, 0.05),
    # Image encoders.
    Rule(r"image_encoder\.neck\.3\.weight$", 0.5, 0.1),
    Rule(r"\.qkv\.weight$", 0.0, 1.4, fan_in=True),
    Rule(r"\.(lin1|fc1)\.weight$", 0.0, 1.4, fan_in=True),
    # Everything else.
    Rule(r"\.bias$", 0.0, 0.1),
    Rule(r"\.weight$", 0.0, 1.0, fan_in=True),
)


def noise(stream: str, count: int) -> NDArray[np.float64]:
    """Return ``count`` bell-shaped numbers of mean 0 and variance 1 for a named stream.

    Number ``i`` is the SplitMix64 output for the counter ``start + (i + 1) * gamma``,
    where ``start`` is the first eight bytes, little-endian, of the SHA-256 of the UTF-8
    stream name; its four 16-bit fields are summed, centred and scaled.
    """
    start = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "little")
    result = np.empty(count, dtype=np.float64)
    for first in range(0, count, _CHUNK):
        last = min(first + _CHUNK, count)
        offset = np.uint64((start + (first + 1) * _GOLDEN_GAMMA) % 2**64)
        z = np.arange(last - first, dtype=np.uint64) * np.uint64(_GOLDEN_GAMMA) + offset
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        z ^= z >> np.uint64(31)
        total = z.view(np.uint16).reshape(-1, 4).sum(axis=1, dtype=np.int64)
        result[first:last] = (total - 131070) / _SUM_STD
    return result


def _fan_in(name: str, shape: tuple[int, ...]) -> int:
    """Return how many inputs one output of the layer sums over."""
    if re.search(r"output_upscaling\.[03]\.weight$", name):  # stride 2, kernel 2: no overlap
        return shape[0]
    return math.prod(shape[1:])


def tensor(name: str, shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32] | NDArray[np.int64]:
    """Return the values of one parameter or buffer; counters of batches are 1.

    One-dimensional weights without a rule of their own belong to normalisation layers and
    lie around 1.
    """
    if name.endswith(".num_batches_tracked"):
        return np.full(shape, 1, dtype=np.int64)
    rule = next(rule for rule in RULES if re.search(rule.pattern, name))
    if rule is RULES[-1] and len(shape) == 1:
        rule = Rule("", 1.0, 0.1)
    std = rule.std / math.sqrt(_fan_in(name, shape)) if rule.fan_in else rule.std
    values = noise(f"{seed}/{name}", math.prod(shape)).reshape(shape)
    if rule.share:
        common = noise(f"{seed}/{re.sub(*rule.share, name)}", math.prod(shape)).reshape(shape)
        values = 0.9 * common + 0.4 * values
    if rule.flat:
        common = noise(f"{seed}/{name}/flat", math.prod(shape[:2])).reshape(*shape[:2], 1, 1)
        values = common + 0.1 * values
    return (rule.mean + std * values).astype(np.float32)


def state_dict(
    shapes: Mapping[str, tuple[int, ...]], seed: int = 0
) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
    """Return arrays for all names in ``shapes``, in its order."""
    return {name: tensor(name, tuple(shape), seed) for name, shape in shapes.items()}


def load_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Read a ``shapes/<variant>.json`` file."""
    entries = json.loads(Path(path).read_text(encoding="utf-8"))
    return {name: tuple(entry["shape"]) for name, entry in entries.items()}


def digest(state: Mapping[str, NDArray[np.generic]]) -> str:
    """Return a SHA-256 over names, types, shapes and little-endian values, sorted by name."""
    total = hashlib.sha256()
    for name in sorted(state):
        value = np.ascontiguousarray(state[name])
        total.update(f"{name} {value.dtype.name} {list(value.shape)}\n".encode())
        total.update(value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes())
    return total.hexdigest()
