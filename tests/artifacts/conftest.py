from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.small_artifact import whole_artifact


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole artifact with two golden photos. Not to be changed: `folder` is a copy."""
    return whole_artifact(tmp_path_factory.mktemp("original"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "small"))
