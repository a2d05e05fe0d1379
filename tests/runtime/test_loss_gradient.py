"""Readers see gradients before anybody adds to them, and no longer once they have let go."""

import torch
from torch import nn

from plasticity_lightning.runtime.loss_gradient import adding_to_gradients, read_loss_gradient


def test_readers_of_a_module_are_asked_until_they_let_go():
    module, other = nn.Linear(2, 1), nn.Linear(2, 1)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    asked = []
    first = read_loss_gradient(module, lambda o: asked.append(("first", o)))
    read_loss_gradient(module, lambda o: asked.append(("second", o)))
    adding_to_gradients(module, optimizer)
    adding_to_gradients(other, optimizer)  # nobody reads there
    assert asked == [("first", optimizer), ("second", optimizer)]
    first.remove()
    adding_to_gradients(module, optimizer)
    assert asked[2:] == [("second", optimizer)]
