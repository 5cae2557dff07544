"""Models as files for other runtimes, one module a target."""

from sam_edge.errors import require

__all__ = ["check_installed"]


def check_installed() -> None:
    """Raises RuntimeUnavailable, with the line that installs it, where torch is not here: every export starts there."""
    require("torch", extra="export")
