"""Time by operator type, from each runtime's own profiler, in one table."""

from __future__ import annotations

from typing import Any

__all__ = ["profile"]


def profile(job: dict[str, Any]) -> dict[str, Any]:
    raise NotImplementedError
