"""Whether a kernel takes what a caller has, and which of the attention paths is taken."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sam_edge.errors import RuntimeUnavailable
from sam_edge.kernels.launch import GENERATIONS, HEAD_SPLITS, generation_of, has_triton

__all__ = ["ATTENTION_PATHS", "Support", "check_path", "choose_path", "supports_tensors"]

ATTENTION_PATHS = ("auto", "triton", "sdpa", "reference")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_GRID = 65535  # programs along the second and third axis of a launch

_log = logging.getLogger("sam_edge.kernels")
_said: set[tuple[str, str, str]] = set()


@dataclass(frozen=True)
class Support:
    """True where a kernel can run; otherwise `reason` says what came, what is expected and what to do."""

    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason


def check_path(attention: str) -> str:
    """One of ATTENTION_PATHS; raises ValueError for anything else."""
    if attention not in ATTENTION_PATHS:
        raise ValueError(f"attention is {attention!r}, expected one of: {', '.join(ATTENTION_PATHS)}.")
    return attention


def choose_path(requested: str, op: str, device: torch.device, support: Callable[[], Support]) -> str:
    """ "triton", "sdpa" or "reference" for one of ATTENTION_PATHS; each new answer is logged once (sam_edge.kernels).

    "auto" is "triton" on a GPU where `support` says yes, and "sdpa" everywhere else. Raises RuntimeUnavailable with the
    reason where "triton" is asked for and cannot run.
    """
    if requested in ("sdpa", "reference"):
        return requested
    if requested == "auto" and device.type != "cuda":
        return _say(op, "sdpa", f"the tensors are on {device.type}")
    supported = support()
    if supported:
        return _say(op, "triton", "the kernel takes these tensors")
    if requested == "triton":
        raise RuntimeUnavailable(f"{op}: {supported.reason}")
    return _say(op, "sdpa", supported.reason)


def supports_tensors(dim: int, **tensors: Tensor) -> Support:
    """What all attention kernels ask for: Triton, one known device, one dtype, a head's width in HEAD_SPLITS."""
    if not has_triton():
        return Support("Triton is not installed. Install it with: pip install 'sam-edge[gpu]'")
    (name, first), *others = tensors.items()
    if generation_of(first.device) is None:
        known = ", ".join(f"{major}.{minor}" for major, minor in GENERATIONS)
        return Support(
            f"{name} is on {first.device}, expected an NVIDIA GPU of compute capability {known}. Use attention='sdpa'."
        )
    for other, tensor in others:
        if tensor.device != first.device or tensor.dtype != first.dtype:
            return Support(
                f"{other} is {tensor.dtype} on {tensor.device}, expected {first.dtype} on {first.device} as {name}."
            )
    if first.dtype not in DTYPES:
        return Support(f"{name} is {first.dtype}, expected one of {', '.join(map(str, DTYPES))}.")
    if dim not in HEAD_SPLITS:
        return Support(f"heads are {dim} wide, expected {', '.join(map(str, HEAD_SPLITS))}. Use attention='sdpa'.")
    return Support()


def _say(op: str, path: str, reason: str) -> str:
    if not torch.compiler.is_compiling() and (op, path, reason) not in _said:
        _said.add((op, path, reason))
        _log.info("%s: %s (%s)", op, path, reason)
    return path
