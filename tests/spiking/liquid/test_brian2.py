"""The liquid against Brian2: every spike of a plastic and of a static network in the same step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticity_lightning.spiking.astrocyte import Astrocyte
from plasticity_lightning.spiking.encoding import rate_encode, sample_keys
from plasticity_lightning.spiking.liquid import LiquidState, NeuronParameters, engine
from plasticity_lightning.spiking.liquid.topology import grid_liquid
from plasticity_lightning.spiking.rules import STDP

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("plastic", [True, False])
def test_spikes_equal_brian2(plastic: bool) -> None:
    b2 = pytest.importorskip("brian2", reason="needs Brian2: install the extra `brian2`")
    from tests.spiking.liquid.brian_liquid import brian_liquid

    b2.prefs.codegen.target = "numpy"
    generator = torch.Generator().manual_seed(0)
    liquid = grid_liquid((4, 5, 5), 40, generator=generator)
    trains = rate_encode(torch.rand(1, 40, generator=generator) * 0.3, sample_keys(0, torch.arange(1)), 150)
    weight = liquid.weight.double() * (1.0 if plastic else 0.7)
    parts = {
        "neuron": NeuronParameters(),
        "rule": STDP() if plastic else None,
        "astrocyte": Astrocyte() if plastic else None,
    }
    network, spikes = brian_liquid(liquid, trains, weight.numpy(), **parts)
    network.run(trains.n_steps * b2.ms)
    activity, _ = engine("cpu")(liquid, trains, LiquidState(weight), weights="private", record=True, **parts)

    step, cell = activity.spikes[0].nonzero(as_tuple=True)
    ours = np.stack([step.numpy(), cell.numpy()], 1)
    theirs = np.stack([np.round(spikes.t / b2.ms).astype(int), np.asarray(spikes.i)], 1)
    assert len(ours) > 300
    assert np.array_equal(ours, theirs[np.lexsort((theirs[:, 1], theirs[:, 0]))])
