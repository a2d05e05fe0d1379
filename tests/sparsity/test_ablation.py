"""SRigL's update: by hand, against a slow reference, and what must hold at every event."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity_lightning.sparsity.ablation import ablating_update, active_neurons, salient_counts
from plasticity_lightning.sparsity.layer import Layer
from plasticity_lightning.sparsity.methods import make_method
from plasticity_lightning.sparsity.structured import limit_mask
from plasticity_lightning.sparsity.update import update_masks
from tests.sparsity.reference import srigl_step


def test_salient_weights_by_hand():
    mask = torch.tensor([[True, True, False, False], [True, True, False, False]])
    weight = torch.tensor([[9.0, 1.0, 0.0, 0.0], [8.0, 7.0, 0.0, 0.0]])
    gradient = torch.tensor([[99.0, 0.0, 1.0, 2.0], [0.0, 0.0, 5.0, 0.0]])
    # K = 1: 9, 8 and 7 would stay; of the absent ones 5 would come, however large the gradient of a living one
    assert salient_counts(mask, weight, gradient, 1).tolist() == [1, 3]


def test_a_neuron_below_gamma_is_ablated_and_the_others_share_its_weights():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)
    weight = torch.tensor([[0.1, 0.2, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0], [5.0, 6.0, 0.0, 0.0]])
    gradient = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 2.0, 0.0]])
    # K = 2: the first neuron keeps nothing and grows nothing; gamma * 2 = 1 is asked for
    made = ablating_update(mask, weight.abs(), gradient.abs(), n_exchanged=2, budget=6, gamma=0.5)
    assert made.fan_in == 3  # 6 weights over two neurons
    assert made.mask.int().tolist() == [[0, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 0]]
    assert made.remaining.int().tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


def test_an_ablated_neuron_returns_with_enough_gradient():
    mask = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)
    weight = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0]])
    gradient = torch.tensor([[0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.1, 0.0]])
    made = ablating_update(mask, weight, gradient, n_exchanged=1, budget=2, gamma=1.0)
    assert made.mask.int().tolist() == [[0, 1, 0, 0], [0, 1, 0, 0]]


def test_as_many_neurons_stay_as_the_weights_need_and_at_least_one():
    salient = torch.tensor([1, 0, 2, 2])
    assert active_neurons(salient, fan_in=10, gamma=1.0, least=2).tolist() == [False, False, True, True]
    assert active_neurons(salient, fan_in=10, gamma=1.0, least=0).tolist() == [False, False, True, False]
    assert active_neurons(salient, fan_in=10, gamma=0.2, least=1).tolist() == [False, False, True, True]
    assert active_neurons(salient, fan_in=10, gamma=0.05, least=1).tolist() == [
        True,
        False,
        True,
        True,
    ]  # one is asked for


def layer(shape, fan_in, seed):
    """A random layer with constant fan-in; distinct values, so that order decides nothing."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(shape, generator=generator)
    mask = limit_mask(scores, fan_in, math.prod(shape[1:]))
    n = math.prod(shape)
    weight = (torch.randperm(n, generator=generator).view(shape) + 1.0) * mask / n
    return weight, mask, (torch.randperm(n, generator=generator).view(shape) + 1.0) / n


SIZES = {
    "rows": st.integers(1, 9), "inputs": st.integers(1, 12), "kernel": st.sampled_from([(), (2, 2)]), "fan_in": st.integers(1, 48),
    "rate": st.floats(0, 1), "gamma": st.floats(0, 1), "seed": st.integers(0, 9999),
}  # fmt: skip


@given(**SIZES)
def test_equals_the_slow_reference(rows, inputs, kernel, fan_in, rate, gamma, seed):
    shape = (rows, inputs, *kernel)
    weight, mask, gradient = layer(shape, min(fan_in, math.prod(shape[1:])), seed)
    n, budget = math.ceil(rate * int(mask.sum())), int(mask.sum())
    made = ablating_update(mask, weight.abs(), gradient.abs(), n, budget, gamma)
    expected = srigl_step(
        weight.flatten(1).numpy(), mask.flatten(1).numpy(), gradient.flatten(1).numpy(), n, budget, gamma
    )
    assert np.array_equal(made.mask.flatten(1).numpy(), expected)


@given(**SIZES)
def test_every_event_keeps_one_fan_in_and_the_budget(rows, inputs, kernel, fan_in, rate, gamma, seed):
    shape = (rows, inputs, *kernel)
    full = math.prod(shape[1:])
    weight, mask, _ = layer(shape, min(fan_in, full), seed)
    budget = int(mask.sum())
    for event in range(4):
        gradient = torch.rand(shape, generator=torch.Generator().manual_seed(event))
        n = math.ceil(rate * int(mask.sum()))
        made = ablating_update(mask, weight.abs() * mask, gradient, n, budget, gamma)
        mask = made.mask
        fan_ins = mask.flatten(1).sum(1)
        living = fan_ins[fan_ins > 0]
        assert len(living) >= 1
        assert (living == made.fan_in).all()
        assert budget - len(living) < int(mask.sum()) <= budget or made.fan_in == full
        weight = weight.where(weight != 0, gradient) * mask


def srigl_layers():
    made = {name: layer((6, 8), 2, seed) for seed, name in enumerate(("hidden", "last"))}
    # one neuron of each layer is worth nothing
    for weight, mask, gradient in made.values():
        weight[0] *= 1e-6
        gradient[0] = 0
        assert mask[0].any()
    return {name: Layer(weight, mask, gradient) for name, (weight, mask, gradient) in made.items()}


def test_neurons_of_the_last_layer_stay_and_what_happened_is_told():
    update = update_masks(
        srigl_layers(), make_method("srigl", ablate_below=1.0), rate=0.4, budgets={"hidden": 12, "last": 12}
    )
    assert update.ablated["hidden"] >= 1
    assert update.ablated["last"] == 0
    assert (update.masks["last"].sum(1) == 2).all()
    assert update.dropped["hidden"] >= 1
    assert update.revived == {"hidden": 0, "last": 0}


def test_a_neuron_that_returns_is_told():
    mask = torch.tensor([[True, True, False, False], [False] * 4])
    gradient = torch.tensor([[1.0] * 4, [2.0] * 4])
    layers = {"hidden": Layer(torch.zeros(2, 4), mask, gradient), "last": srigl_layers()["last"]}
    update = update_masks(layers, make_method("srigl", ablate_below=0.5), rate=1.0, budgets={"hidden": 2})
    assert (update.ablated["hidden"], update.revived["hidden"]) == (1, 1)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"structure": "2:4", "sparsity": 0.5}, "structure"),
        ({"prune": "uniform"}, "prune"),
        ({"drop_by": "sign"}, "drop_by"),
        ({"grow_by": "none"}, "grow_by"),
        ({"strict_threshold": True}, "strict_threshold"),
    ],
)
def test_what_ablation_cannot_work_with_is_refused(options, name):
    with pytest.raises(ValueError, match=rf"ablate_below=0\.3 needs structure='fan_in'.*; {name} is"):
        make_method("srigl", **options)


def test_gamma_is_a_share():
    with pytest.raises(ValueError, match=r"ablate_below=1\.5 must lie in \[0, 1\]"):
        make_method("srigl", ablate_below=1.5)
    assert make_method("srigl", ablate_below=0.0).structure == "fan_in"
