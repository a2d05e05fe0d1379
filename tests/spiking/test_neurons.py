"""The refractory LIF neuron: by hand, against SpikingJelly's own node, and its dead time."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import neuron

from plasticity_lightning.spiking.neurons import RefractoryLIFNode, charge, lif_step


def test_a_step_by_hand() -> None:
    # v = 16 + 4 - 16 / 64 = 19.75 stays below 20; 16 + 5 - 0.25 = 20.75 fires and is reset; the third is refractory and keeps integrating
    v, rest = torch.full((3,), 16.0), torch.tensor([0, 0, 1])
    spikes, v, rest = lif_step(v, rest, torch.tensor([4.0, 5.0, 5.0]))
    assert spikes.tolist() == [0, 1, 0]
    assert v.tolist() == [19.75, 0.0, 20.75]
    assert rest.tolist() == [-1, 2, 0]
    assert charge(16.0, 4.0, 64.0) == 19.75


@pytest.mark.slow  # SpikingJelly's node imports torch's compiler, for seconds
def test_without_dead_time_it_is_spikingjellys_own_node() -> None:
    x = 5 * torch.rand(100, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = RefractoryLIFNode(tau=20.0, v_threshold=20.0, refractory=0, step_mode="m")
    theirs = neuron.LIFNode(
        tau=20.0, decay_input=False, v_threshold=20.0, v_reset=0.0
    )  # mode m would compile, for seconds
    spikes = ours(x)
    assert 0 < float(spikes.mean()) < 0.5
    assert torch.equal(spikes, torch.stack([theirs(step) for step in x]))


def test_the_smallest_interval_is_the_dead_time_and_a_pulse_in_it_causes_a_late_spike() -> None:
    node = RefractoryLIFNode(refractory=2)
    pulses = [100.0, 100.0, 0.0, 0.0, 0.0]
    # the second pulse is kept in v until the counter has run out, three steps after the first spike
    assert [float(node(torch.tensor([x]))) for x in pulses] == [1, 0, 0, 1, 0]
    node.reset()
    assert float(node(torch.tensor([0.0]))) == 0


def test_the_surrogate_carries_a_gradient() -> None:
    x = torch.full((4, 1, 3), 8.0, requires_grad=True)
    RefractoryLIFNode(tau=4.0, step_mode="m")(x).sum().backward()
    assert float(x.grad.abs().sum()) > 0


@pytest.mark.parametrize("arguments", [{"tau": 0.5}, {"v_threshold": 0.0}, {"refractory": -1}])
def test_bad_arguments_are_named(arguments: dict) -> None:
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        RefractoryLIFNode(**arguments)
