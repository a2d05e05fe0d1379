"""The list of measures is complete, callable and documented."""

from __future__ import annotations

import pathlib

import pytest

import plasticity_lightning.measures as measures
from plasticity_lightning.measures.registry import MEASURES, measure_named

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "measures.md"


@pytest.mark.parametrize("name", MEASURES)
def test_an_entry_names_a_public_documented_function(name):
    entry = MEASURES[name]
    assert entry.function.__name__ == name
    assert getattr(measures, name) is entry.function
    assert name in measures.__all__
    assert len(entry.function.__doc__) > 80
    assert f"### `{name}`" in DOCS.read_text()


def test_the_public_names_exist():
    assert len(set(measures.__all__)) == len(measures.__all__)
    for name in measures.__all__:
        assert getattr(measures, name) is not None


def test_probes_are_never_combined_and_never_cheap():
    for entry in MEASURES.values():
        if entry.needs == "probe":
            assert entry.combine is None
            assert entry.cost == "expensive"


def test_an_unknown_measure_is_refused_with_the_nearest():
    assert measure_named("fau") is MEASURES["fau"]
    with pytest.raises(ValueError, match="did you mean 'dormant'"):
        measure_named("dormnat")
