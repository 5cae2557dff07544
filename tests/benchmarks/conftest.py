from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_artifact import whole_artifact


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact folder of 64 px that loads with all checks."""
    return whole_artifact(tmp_path_factory.mktemp("models"))
