"""No shipped recipe without an end-to-end test."""

from pathlib import Path

import pytest

from plasticity_lightning.cli.recipes import list_recipes

FAMILIES = sorted({name.split("/")[0] for name in list_recipes()})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_of_recipes_has_its_tests(family: str) -> None:
    assert (Path(__file__).parent / f"test_{family}.py").is_file()
