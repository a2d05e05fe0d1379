"""Averages that have copied the module copy it again; others, and those that have not yet, are left alone."""

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import nn

from plasticity_lightning.runtime.averaged_copies import copy_again
from tests.callbacks.toy_networks import Classifier


class Stranger(Callback):
    """Has the attribute and is no average."""

    _average_model = object()

    def setup(self, trainer, pl_module, stage):
        raise AssertionError("it was set up again")


class Later(EMAWeightAveraging):
    """Another one, of a class of its own, so that a Trainer takes both."""


def test_copies_follow_the_structure():
    module, averages = Classifier(), [EMAWeightAveraging(), StochasticWeightAveraging(0.1)]
    later = Later()
    trainer = Trainer(logger=False, enable_checkpointing=False, callbacks=[*averages, Stranger(), later], max_epochs=2)
    trainer.strategy.connect(module)
    module.trainer = trainer
    for average in averages:
        average.setup(trainer, module, "fit")
    module.net[6] = nn.Linear(12, 5)
    copy_again(trainer, module)
    for average in averages:
        copied = getattr(average._average_model, "module", average._average_model)
        assert torch.equal(copied.net[6].weight, module.net[6].weight)
        assert copied.net[6].weight is not module.net[6].weight
    assert later._average_model is None
