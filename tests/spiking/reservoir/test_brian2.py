"""Both forms of neuron against Brian2: every spike of one second of a recurrent network of 100 neurons at the same time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticity_lightning.spiking.reservoir import (
    Drive,
    Reservoir,
    ReservoirOptions,
    ReservoirState,
    Trace,
    draw_reservoir,
    engine,
    initial_state,
    nicola_clopath_reservoir,
)

pytestmark = pytest.mark.slow


def networks() -> dict[str, tuple[Reservoir, Drive, Trace]]:
    generator = torch.Generator().manual_seed(0)
    # recurrence strong enough to matter: without it, the spikes are others
    options = ReservoirOptions(n_neurons=100, n_channels=2, gain_excitatory=40.0, gain_inhibitory=40.0, noise=0.0)
    stimuli = [[(0, 100, 150), (1, 400, 450), (0, 700, 720, 0.5)]]
    chaotic = nicola_clopath_reservoir(100, gain=5e3, generator=generator)
    return {
        "2003": (draw_reservoir(options, generator=generator), Drive.intervals(1000, 2, stimuli), Trace()),
        "capacitance": (chaotic, Drive.intervals(25_000, 0, [[]]), Trace(2.0, 20.0, 4.0)),
    }


def start(reservoir: Reservoir) -> ReservoirState:
    """Scattered potentials: the chaotic network needs a kick to fire at all."""
    scatter = torch.rand(1, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return initial_state(reservoir, [0], v=-60.0 + 85.0 * scatter)


@pytest.mark.parametrize("form", ["2003", "capacitance"])
def test_spike_times_equal_brian2(form: str) -> None:
    b2 = pytest.importorskip("brian2", reason="needs Brian2: install the extra `brian2`")
    from tests.spiking.reservoir.brian_network import brian_network

    reservoir, drive, trace = networks()[form]
    state = start(reservoir)
    network, spikes = brian_network(reservoir, drive, v=state.v[0].numpy(), u=state.u[0].numpy())
    network.run(float(drive.n_steps[0]) * reservoir.dt * b2.ms)
    activity, _ = engine("cpu")(reservoir, drive, state, trace=trace, record=True)

    step, neuron = activity.spikes[0].nonzero(as_tuple=True)
    ours = np.stack([step.numpy(), neuron.numpy()], 1)
    theirs = np.stack([np.round(spikes.t / (reservoir.dt * b2.ms)).astype(int), np.asarray(spikes.i)], 1)
    theirs = theirs[np.lexsort((theirs[:, 1], theirs[:, 0]))]
    assert len(ours) > 300
    assert np.array_equal(ours, theirs)


def test_the_synapses_of_both_networks_matter() -> None:
    # else the comparison above would say nothing about them
    for reservoir, drive, trace in networks().values():
        silent = type(reservoir)(**{**vars(reservoir), "weight": torch.zeros_like(reservoir.weight)})
        spikes = [engine("cpu")(r, drive, start(r), trace=trace, record=True)[0].spikes for r in (reservoir, silent)]
        assert float((spikes[0] != spikes[1]).sum()) > 0.1 * float(spikes[0].sum())
