"""The astrocyte: its rest, one step by hand, its fixed point and what it senses."""

from __future__ import annotations

import pytest
import torch

from plasticity_lightning.spiking.astrocyte import Astrocyte, astrocyte_step


def step(state: float, n_liquid: int, n_input: int, astrocyte: Astrocyte) -> float:
    return astrocyte_step(state, n_liquid, n_input, astrocyte.weight, astrocyte.bias, astrocyte.tau)


def test_without_spikes_it_stays_at_rest_and_ten_spikes_more_than_the_input_move_it_by_15_ten_thousandths() -> None:
    astrocyte = Astrocyte()
    assert step(0.15, 0, 0, astrocyte) == 0.15
    # (0.015 * 10 + 0.15 - 0.15) / 100
    assert step(0.15, 13, 3, astrocyte) == pytest.approx(0.1515)


def test_it_settles_at_its_fixed_point_and_may_turn_negative() -> None:
    astrocyte, state = Astrocyte(weight=0.1, tau=5.0), 0.15
    for _ in range(200):
        state = step(state, 2, 12, astrocyte)
    assert state == pytest.approx(0.15 - 0.1 * 10)


def test_states_of_several_samples_advance_together() -> None:
    state = astrocyte_step(torch.tensor([0.15, 0.25]), torch.tensor([10, 0]), torch.tensor([0, 0]), 0.015, 0.15, 100.0)
    torch.testing.assert_close(state, torch.tensor([0.1515, 0.249]))


def test_it_senses_the_stated_share_of_either_side_the_same_for_one_seed() -> None:
    liquid, inputs = Astrocyte(density=0.3, seed=4).sensed(10, 25)
    assert (int(liquid.sum()), int(inputs.sum())) == (3, 8)  # ceil(3.0), ceil(7.5)
    again = Astrocyte(density=0.3, seed=4).sensed(10, 25)
    assert torch.equal(liquid, again[0])
    assert torch.equal(inputs, again[1])
    assert not torch.equal(inputs, Astrocyte(density=0.3, seed=5).sensed(10, 25)[1])
    assert all(bool(mask.all()) for mask in Astrocyte().sensed(10, 25))
