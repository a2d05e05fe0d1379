"""The wheel holds what the package needs at run time, and every place that names a version names the same."""

import re
import zipfile
from pathlib import Path

import pytest

from plasticity_lightning._version import __version__

ROOT = Path(__file__).parents[1]


def test_wheel_contains_recipes_and_the_typing_marker(tmp_path):
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    wheel = next(iter(builder.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])))
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"plasticity_lightning/{path.relative_to(ROOT)}" for path in (ROOT / "recipes").rglob("*.yaml")}
    assert expected
    assert expected <= names
    assert "plasticity_lightning/py.typed" in names
    assert f"-{__version__}-" in Path(wheel).name


def test_versions_agree():
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert citation is not None
    assert citation.group(1).strip('"') == __version__
