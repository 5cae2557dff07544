"""A model for the command line that loads in milliseconds, and photos of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam_edge.golden_vectors import record
from sam_edge.runtimes import with_onnxruntime
from tests.sa1b import PHOTOS
from tests.small_artifact import small_artifact, small_photo, small_prompts


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact folder of 64 px whose mask is what is brighter than grey; loads with all checks."""
    folder = tmp_path_factory.mktemp("models")
    small_artifact(folder / "draft")
    runtime = with_onnxruntime.load(folder / "draft", 1, canary=False)
    golden = tuple(record(runtime, small_photo(seed), small_prompts()) for seed in (1, 2))
    small_artifact(folder / "small", golden)
    return folder / "small"


@pytest.fixture(scope="session")
def photo() -> Path:
    return PHOTOS / "chelsea.jpg"
