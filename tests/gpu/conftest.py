"""Tests that need a device; tests/kernels has all that does not."""

from __future__ import annotations

import pytest
import torch

from sam_edge.kernels.launch import generation_of, has_triton


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_not()
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def why_not() -> str:
    if not torch.cuda.is_available():
        return "there is no NVIDIA GPU: torch.cuda.is_available() is False"
    if not has_triton():
        return "Triton is not installed"
    return "" if generation_of(torch.device("cuda", 0)) else "this GPU has no rows in kernels/launch.py"
