"""Who watches an update: callbacks by their hooks, and hooks of torch on modules, parameters and optimisers."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from plasticity_lightning.protocols import WatchesUpdates
from plasticity_lightning.runtime.watching import watcher_of_updates


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


class Inside(pl.Callback):
    def on_after_backward(self, *_: Any) -> None: ...


class Outside(pl.Callback):
    def on_train_batch_end(self, *_: Any) -> None: ...


class Sometimes(Inside):
    watching = False


def watcher(callbacks: list[pl.Callback], net: Net | None = None, optimizer: Any = None) -> str | None:
    net = net or Net()
    trainer: Any = SimpleNamespace(callbacks=callbacks, optimizers=[optimizer or torch.optim.Adam(net.parameters())])
    return watcher_of_updates(trainer, net)


def test_callbacks_watch_by_the_hooks_inside_an_update() -> None:
    assert watcher([]) is None
    assert watcher([Outside()]) is None
    assert watcher([Outside(), Inside()]) == "Inside"


def test_a_callback_may_say_that_it_does_not_watch_this_batch() -> None:
    sometimes = Sometimes()
    assert isinstance(sometimes, WatchesUpdates)
    assert watcher([sometimes]) is None
    sometimes.watching = True
    assert watcher([sometimes]) == "Sometimes"


@pytest.mark.parametrize(
    ("hook", "name"),
    [
        (lambda net: net.layer.register_forward_hook(print), "a hook on layer"),
        (lambda net: net.layer.register_forward_pre_hook(print), "a hook on layer"),
        (lambda net: net.layer.register_full_backward_hook(print), "a hook on layer"),
        (lambda net: net.layer.register_full_backward_pre_hook(print), "a hook on layer"),
        (lambda net: net.layer.weight.register_hook(print), "a hook on the gradient of layer.weight"),
        (
            lambda net: net.layer.bias.register_post_accumulate_grad_hook(print),
            "a hook on the gradient of layer.bias",
        ),
        (lambda net: nn.modules.module.register_module_forward_hook(print), "a hook on all modules"),
    ],
)
def test_hooks_of_torch_watch_while_they_are_there(hook: Callable[[Net], Any], name: str) -> None:
    net = Net()
    handle = hook(net)
    try:
        assert watcher([], net) == name
    finally:
        handle.remove()
    assert watcher([], net) is None


@pytest.mark.parametrize("register", ["register_step_pre_hook", "register_step_post_hook"])
def test_hooks_on_optimisers_watch(register: str) -> None:
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    handle = getattr(optimizer, register)(print)
    assert watcher([], net, optimizer) == "a hook on the steps of Adam"
    handle.remove()
    assert watcher([], net, optimizer) is None
