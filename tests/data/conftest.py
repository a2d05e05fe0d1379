"""An environment in which only the test's own folders are searched."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def isolated_places(tmp_path, monkeypatch):
    """No test may find data of the machine, or write to its caches."""
    monkeypatch.delenv("PLASTICITY_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("plasticity_lightning.data.sources._SYSTEM_ROOT", tmp_path / "system")


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"
