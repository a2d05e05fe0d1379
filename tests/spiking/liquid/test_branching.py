"""Branching factors of whole liquids: they rise with the weight, and on MNIST lie where the paper's do.

The paper's 20 test items are unknown (its script uses one batch of whatever file the folder lists last), and networks differ. At w = 0.5, 0.8, 0.9,
1.2, with 20 evenly spaced test items encoded with the training set's scale, three networks (seeds 0 to 2) gave 0.538, 1.009, 1.139, 1.392; the
paper's ten 0.539, 1.002, 1.130, 1.404. With the test set's own scale, 10 % more input pulses, our ten networks (seeds 0 to 9) gave 0.585 +/- 0.028,
1.054 +/- 0.039, 1.173 +/- 0.039, 1.404 +/- 0.023. The windows of the specification are narrower than one such standard deviation, so that they are
widened by two standard errors of a mean over three networks.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from plasticity_lightning.data import DataNotFoundError, DigitsDataModule, MNISTDataModule
from plasticity_lightning.measures.spiking import branching_factor
from plasticity_lightning.spiking.astrocyte import Astrocyte
from plasticity_lightning.spiking.encoding import ink_scale, pulse_probability, rate_encode, sample_keys
from plasticity_lightning.spiking.liquid import LiquidState, NeuronParameters, engine
from plasticity_lightning.spiking.liquid.topology import Liquid, grid_liquid
from plasticity_lightning.spiking.rules import STDP

SPREAD = 0.039  # largest of the standard deviations above


def liquid_of(seed: int, shape: tuple[int, int, int], n_inputs: int, weight: float) -> Liquid:
    return grid_liquid(shape, n_inputs, weight=weight, generator=torch.Generator().manual_seed(seed))


def mean_branching(
    liquid: Liquid,
    images: Tensor,
    index: Tensor,
    scale: float,
    seed: int,
    weight: Tensor | None = None,
    **plasticity: object,
) -> float:
    """Mean over the items `index` of `images`, 250 ms each."""
    trains = rate_encode(pulse_probability(images[index], scale), sample_keys(seed, index), 250)
    state = LiquidState(liquid.weight.double() if weight is None else weight)
    arguments = {"neuron": NeuronParameters(), "rule": None, "astrocyte": None, "weights": "private", **plasticity}
    activity, _ = engine("cpu")(liquid, trains, state, record=True, **arguments)
    pre, post = liquid.recurrent_edges()
    return float(torch.stack([branching_factor(spikes, pre, post) for spikes in activity.spikes]).mean())


def test_it_rises_with_the_weight() -> None:
    data = DigitsDataModule(dtype="uint8")
    images, _ = data.arrays("test")
    index, scale = torch.linspace(0, len(images) - 1, 5).round().long(), ink_scale(images)
    for seed in range(3):
        values = [
            mean_branching(liquid_of(seed, (6, 6, 6), 64, w), images, index, scale, seed) for w in (0.8, 1.2, 2.0)
        ]
        assert values == sorted(values), seed
        assert values[2] > 1.5 * values[0]


@pytest.fixture(scope="module")
def mnist() -> MNISTDataModule:
    data = MNISTDataModule(dtype="uint8", download=False)
    try:
        data.setup()
    except DataNotFoundError as error:
        pytest.skip(f"needs the real MNIST: {error}")
    return data


@pytest.mark.slow
def test_static_liquids_branch_as_the_papers_do_on_mnist(mnist: MNISTDataModule) -> None:
    images, _ = mnist.arrays("test")
    index, scale = torch.linspace(0, len(images) - 1, 20).round().long(), ink_scale(mnist.arrays("train_file")[0])
    seeds, tolerance = range(3), 2 * SPREAD / 3**0.5
    # windows of specification 14 (f): from the mean of the paper's ten networks to one network of an independent simulator
    for weight, low, high in ((0.5, 0.54, 0.59), (0.8, 1.00, 1.04), (0.9, 1.13, 1.15), (1.2, 1.38, 1.40)):
        values = [mean_branching(liquid_of(s, (10, 10, 10), 784, weight), images, index, scale, s) for s in seeds]
        mean = sum(values) / len(values)
        assert low - tolerance < mean < high + tolerance, (weight, values)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nalsm_branches_as_the_papers_does_on_mnist(mnist: MNISTDataModule) -> None:
    images, _ = mnist.arrays("train")
    liquid, learning = liquid_of(0, (10, 10, 10), 784, 3.0), {"rule": STDP(), "astrocyte": Astrocyte()}
    order, scale = (
        torch.randperm(len(images), generator=torch.Generator().manual_seed(0)),
        ink_scale(mnist.arrays("train_file")[0]),
    )
    state = LiquidState(liquid.weight.double(), torch.zeros(liquid.n_sources, dtype=torch.float64))
    for chunk in order.split(1000):  # 50,000 items of 20 ms, weights and traces carried
        trains = rate_encode(pulse_probability(images[chunk], scale), sample_keys(0, chunk), 20)
        _, state = engine("cpu")(liquid, trains, state, neuron=NeuronParameters(), weights="carried", **learning)
    test, _ = mnist.arrays("test")
    index = torch.linspace(0, len(test) - 1, 20).round().long()
    value = mean_branching(liquid, test, index, scale, 0, weight=state.weight, rate_decay=0.99, **learning)
    # the paper's ten networks: 1.246 +/- 0.023; one network may lie two standard deviations off, and 20 items add an error of about 0.01
    assert 1.246 - 0.056 < value < 1.246 + 0.056
