"""Images without ink, silent liquids, impossible densities and negative rates: an error that names it, or a guarded value."""

from __future__ import annotations

import pytest
import torch

from plasticity_lightning.readouts import normalise_counts, silent_items
from plasticity_lightning.spiking.astrocyte import Astrocyte
from plasticity_lightning.spiking.encoding import ink_fraction, ink_scale, pulse_probability, rate_encode, sample_keys
from plasticity_lightning.spiking.liquid import LiquidState, NeuronParameters, engine
from plasticity_lightning.spiking.liquid.topology import ConnectionProbability, grid_liquid
from plasticity_lightning.spiking.rules import APSTDP, STDP


def test_an_image_without_ink_gives_no_pulse_no_spike_and_a_zero_feature() -> None:
    images = torch.tensor([[0, 0, 0, 0], [0, 10, 0, 30]], dtype=torch.uint8)
    assert ink_fraction(images).tolist() == [[0.0] * 4, [0.0, 0.25, 0.0, 0.75]]
    assert ink_scale(images) == 0.75
    trains = rate_encode(pulse_probability(images, 0.75), sample_keys(0, torch.arange(2)), 50)
    pulses = trains.dense().sum((0, 2)).tolist()
    assert pulses[0] == 0
    assert pulses[1] >= 50  # the brightest pixel has probability 1
    liquid = grid_liquid((2, 3, 4), 4, weight=3.0, input_density=1.0, generator=torch.Generator().manual_seed(0))
    fixed = {"neuron": NeuronParameters(), "rule": STDP(), "astrocyte": Astrocyte(), "weights": "private"}
    activity, _ = engine("cpu")(liquid, trains, LiquidState(liquid.weight.double()), threads=1, **fixed)
    assert activity.counts.sum(1).tolist()[0] == 0
    features = normalise_counts(activity.counts)
    assert torch.equal(features[0], torch.zeros(24))
    assert torch.isfinite(features).all()
    assert silent_items(activity.counts) >= 1


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_a_liquid_without_edges_is_refused_by_every_engine(name: str) -> None:
    nothing = ConnectionProbability(0.0, 0.0, 0.0, 0.0)
    generator = torch.Generator().manual_seed(0)
    liquid = grid_liquid((2, 2, 2), 3, input_density=0.0, probability=nothing, generator=generator)
    trains = rate_encode(torch.ones(1, 3), sample_keys(0, torch.arange(1)), 5)
    fixed = {"neuron": NeuronParameters(), "rule": STDP(), "astrocyte": None, "weights": "private"}
    with pytest.raises(ValueError, match=r"8 neurons and 3 inputs has no edge.*input_density"):
        engine(name)(liquid, trains, LiquidState(liquid.weight.double()), **fixed)


@pytest.mark.parametrize(("n", "message"), [(3, "none of the 3 images has any ink"), (0, "empty set of images")])
def test_a_set_without_ink_has_no_scale(n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ink_scale(torch.zeros(n, 4))


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_a_scale_must_be_positive(scale: float) -> None:
    with pytest.raises(ValueError, match=f"scale={scale} must be positive"):
        pulse_probability(torch.ones(1, 4), scale)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_density": -0.1}, "input_density=-0.1 must lie in"),
        ({"input_density": 1.1}, "input_density=1.1 must lie in"),
        ({"excitatory_fraction": 1.5}, "excitatory_fraction=1.5"),
        ({"length_scale": 0.0}, "length_scale=0.0"),
        ({"weight": 0.0}, "weight=0.0"),
        ({"shape": (0, 2, 2)}, r"shape=\(0, 2, 2\)"),
        ({"n_inputs": 0}, "n_inputs=0"),
    ],
)
def test_an_impossible_liquid_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid_liquid(**{"shape": (2, 2, 2), "n_inputs": 4, "generator": torch.Generator(), **arguments})


@pytest.mark.parametrize(
    ("part", "arguments"),
    [
        (STDP, {"lr": -0.1}),
        (STDP, {"trace_increment": -1.0}),
        (STDP, {"trace_decay": 1.0}),
        (STDP, {"w_max": 0.0}),
        (APSTDP, {"theta": -1.0}),
        (APSTDP, {"delta": 0.0}),
        (APSTDP, {"tau_calcium": 0.5}),
        (Astrocyte, {"weight": -0.1}),
        (Astrocyte, {"bias": -0.1}),
        (Astrocyte, {"density": 0.0}),
        (ConnectionProbability, {"ee": 1.2}),
        (ConnectionProbability, {"ii": -0.1}),
        (NeuronParameters, {"tau_mem": 0.5}),
        (NeuronParameters, {"tau_syn": 0.0}),
        (NeuronParameters, {"v_threshold": 0.0}),
        (NeuronParameters, {"refractory": -1}),
        (NeuronParameters, {"pulse": 0.0}),
    ],
)
def test_a_rate_or_density_out_of_range_is_named_with_its_value(part: type, arguments: dict) -> None:
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        part(**arguments)
