"""The bar says what is true: epochs where there is a last one, phases where there are phases."""

import types

import pytest

from plasticity_lightning.runtime.progress_bar import PhaseProgressBar


@pytest.mark.parametrize(
    ("max_epochs", "module", "words"),
    [
        (60, object(), "Epoch 3/59"),
        (-1, object(), "Epoch 3"),
        (-1, types.SimpleNamespace(phase="features"), "features (epoch 3)"),
        (9, types.SimpleNamespace(phase=7), "Epoch 3/8"),  # not ours
    ],
)
def test_the_description(max_epochs, module, words):
    bar = PhaseProgressBar()
    bar._trainer = types.SimpleNamespace(max_epochs=max_epochs, lightning_module=module, sanity_checking=False)
    assert bar._get_train_description(3).strip() == words
