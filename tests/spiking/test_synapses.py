"""The saturating synapse: a spike resets its clock, it does not add."""

from __future__ import annotations

import math

import pytest
import torch

from plasticity_lightning.spiking.synapses import SaturatingSynapse, saturating_synapse_step


def test_a_step_by_hand() -> None:
    factor, clock = saturating_synapse_step(torch.tensor([3.0, 3.0, 100.0]), torch.tensor([0.0, 1.0, 0.0]), tau=2.0)
    assert factor.tolist() == pytest.approx([math.exp(-1.5) / 2, 0.5, math.exp(-50) / 2])
    assert clock.tolist() == [4.0, 1.0, 100.0]


def test_spikes_in_turn_never_add_up() -> None:
    synapse = SaturatingSynapse(tau=5.0, step_mode="m")
    factors = synapse(torch.ones(4, 1)).flatten()
    assert factors.tolist() == pytest.approx([0.2] * 4)
    # from then on the factor falls by exp(-1 / 5) a step
    assert synapse(torch.zeros(2, 1)).flatten().tolist() == pytest.approx([0.2 * math.exp(-k / 5) for k in (1, 2)])
    synapse.reset()
    assert synapse(torch.zeros(1, 1)).flatten().tolist() == pytest.approx([0.2 * math.exp(-20 / 5)])


def test_tau_must_be_positive() -> None:
    with pytest.raises(ValueError, match="tau=0"):
        SaturatingSynapse(tau=0)
