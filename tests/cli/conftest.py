"""A model for the command line that loads in milliseconds, and photos of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sa1b import PHOTOS
from tests.small_artifact import whole_artifact


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact folder of 64 px whose mask is what is brighter than grey; loads with all checks."""
    return whole_artifact(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def photo() -> Path:
    return PHOTOS / "chelsea.jpg"
