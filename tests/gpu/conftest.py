"""Tests that need a device; tests/kernels has all that does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sam_edge.kernels.launch import generation_of, has_triton
from tests.kernels.compare import float32_in_full


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_not()
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _float32_is_not_shortened() -> Iterator[None]:
    with float32_in_full():
        yield


def why_not() -> str:
    if not torch.cuda.is_available():
        return "there is no NVIDIA GPU: torch.cuda.is_available() is False"
    if not has_triton():
        return "Triton is not installed"
    return "" if generation_of(torch.device("cuda", 0)) else "this GPU has no rows in kernels/launch.py"
