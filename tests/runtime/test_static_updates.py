"""Static inputs of recorded updates, and what such updates rely on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from plasticity_lightning.errors import UserError
from plasticity_lightning.runtime.static_updates import (
    StaticUpdates,
    addresses,
    plain_optimizer_states,
    prepare_optimizers,
)


@dataclass(frozen=True)
class Pair:
    x: Tensor
    y: Tensor


def test_each_batch_is_used_once_in_order_and_scalars_add_up() -> None:
    seen: list[tuple[int, float]] = []

    def update(pair: Pair) -> dict[str, Tensor]:
        seen.append((pair.x.data_ptr(), float(pair.x[0])))
        return {"sum": (pair.x + pair.y).sum()}

    static = StaticUpdates(update, [])
    first = [Pair(torch.full((2,), float(i)), torch.ones(2)) for i in (1, 2)]
    assert float(static(first)["sum"]) == (2 * 1 + 2) + (2 * 2 + 2)
    assert float(static([Pair(torch.full((2,), float(i)), torch.zeros(2)) for i in (3, 4)])["sum"]) == 14
    assert [value for _, value in seen] == [1, 2, 3, 4]
    assert [seen[2][0], seen[3][0]] == [seen[0][0], seen[1][0]]  # the same memory
    assert first[0].x.tolist() == [1, 1]  # the caller's stays its own


def test_static_copies_keep_the_memory_format() -> None:
    image = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    formats = []

    def update(pair: Pair) -> dict[str, Tensor]:
        formats.append(pair.x.is_contiguous(memory_format=torch.channels_last))
        return {}

    StaticUpdates(update, [])([Pair(image, image)])
    assert formats == [True]


def test_addresses_change_when_a_tensor_is_replaced_but_not_when_it_is_written() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = Adam(net.parameters())
    before = addresses(net, [optimizer])
    with torch.no_grad():
        net[0].weight.zero_()
        net[1].running_mean.add_(1)
    assert addresses(net, [optimizer]) == before
    net(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    stepped = addresses(net, [optimizer])
    assert stepped != before  # the first step makes the moments
    optimizer.step()
    assert addresses(net, [optimizer]) == stepped
    net[0].weight.requires_grad_(False)
    assert addresses(net, [optimizer]) != stepped
    net[0] = nn.Linear(2, 2)
    assert addresses(net, [optimizer]) != stepped


def test_optimisers_are_prepared_on_a_gpu_only_and_saved_as_any_device_takes_them() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = Adam([weight], lr=0.1)
    prepare_optimizers([optimizer], torch.device("cpu"))
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0]["capturable"] is False
    state = optimizer.state_dict()
    state["param_groups"][0].update(lr=torch.tensor(0.25), capturable=True)  # as a prepared one gives it
    plain_optimizer_states([state])
    assert state["param_groups"][0]["lr"] == 0.25
    assert type(state["param_groups"][0]["lr"]) is float
    assert state["param_groups"][0]["capturable"] is False
    with pytest.raises(UserError, match="SGD cannot be recorded in a CUDA graph"):
        prepare_optimizers([SGD([weight], lr=0.1)], torch.device("cpu"))
