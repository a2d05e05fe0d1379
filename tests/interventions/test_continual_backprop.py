"""Continual backpropagation against a naive reference that keeps every unit as a Python object."""

import pytest
import torch
from torch import nn

from plasticity_lightning.interventions.continual_backprop import UnitUtility, compensate_biases, outgoing_magnitude
from plasticity_lightning.interventions.redo import silence_outgoing
from plasticity_lightning.interventions.unit_graph import UnitLayer


class Naive:
    """Dohare et al. 2024, algorithm 1, for one layer, unit by unit."""

    def __init__(self, units, rate, maturity, decay):
        self.units = [{"u": 0.0, "f": 0.0, "age": 0} for _ in range(units)]
        self.rate, self.maturity, self.decay, self.credit = rate, maturity, decay, 0.0

    def step(self, mean_abs, mean, outgoing):
        for unit, a, f, w in zip(self.units, mean_abs, mean, outgoing, strict=True):
            unit["age"] += 1
            unit["u"] = self.decay * unit["u"] + (1 - self.decay) * a * w
            unit["f"] = self.decay * unit["f"] + (1 - self.decay) * f
        mature = [i for i, unit in enumerate(self.units) if unit["age"] > self.maturity]
        self.credit += self.rate * len(mature)
        replaced, means = set(), {}
        while self.credit >= 1 - 1e-9:
            self.credit -= 1
            left = [i for i in mature if i not in replaced]
            worst = min(left, key=lambda i: self.units[i]["u"] / (1 - self.decay ** self.units[i]["age"]))
            replaced.add(worst)
        for i in replaced:
            means[i] = self.units[i]["f"] / (1 - self.decay ** self.units[i]["age"])
            self.units[i] = {"u": 0.0, "f": 0.0, "age": 0}
        return replaced, means


@pytest.mark.parametrize(("rate", "maturity"), [(0.05, 5), (0.3, 0), (0.13, 3), (1.0, 2)])
def test_it_replaces_the_units_that_the_naive_reference_does(rate, maturity):
    generator = torch.Generator().manual_seed(0)
    naive, state = Naive(7, rate, maturity, 0.9), UnitUtility.fresh(7)
    total = 0
    for _ in range(60):
        a, w = torch.rand(7, generator=generator), torch.rand(7, generator=generator)
        mean = a - 0.3
        expected, means = naive.step(a.tolist(), mean.tolist(), w.tolist())
        state.update(a, mean, w, 0.9)
        number = state.due(rate, maturity)
        assert number == len(expected)
        if number:
            mask = state.least_useful(number, 0.9, maturity)
            assert {i for i in range(7) if mask[i]} == expected
            for i, value in means.items():
                assert state.mean_activation(0.9)[i].item() == pytest.approx(value, rel=1e-5)
            state.forget(mask, number)
            total += number
        assert state.age.tolist() == [unit["age"] for unit in naive.units]
    assert total > 0


def test_small_rates_add_up_exactly():
    state = UnitUtility.fresh(100)
    replaced = 0
    for _ in range(1000):
        state.update(torch.ones(100), torch.ones(100), torch.ones(100), 0.99)
        number = state.due(1e-4, 0)
        replaced += number
        if number:
            state.forget(state.least_useful(number, 0.99, 0), number)
    assert replaced == pytest.approx(10, abs=1)  # 1000 steps * 1e-4 * (100, less those that are one step old)
    assert isinstance(state.credit, float)


def test_outgoing_magnitude_by_hand():
    b, c = nn.Linear(4, 2), nn.Conv1d(2, 1, 2)
    nn.init.constant_(b.weight, -1.0)
    nn.init.constant_(c.weight, 0.5)
    layer = UnitLayer(2, {"b": 2, "c": 1})
    # each unit fills 2 inputs of b: 2 outputs * 2 * 1, and one channel of c: 2 positions * 0.5
    assert outgoing_magnitude(layer, {"b": b, "c": c}).tolist() == [5.0, 5.0]


@pytest.mark.parametrize("kind", ["linear", "conv", "transposed"])
def test_a_unit_of_constant_activation_is_replaced_without_a_change_downstream(kind):
    torch.manual_seed(0)
    consumer = {
        "linear": lambda: nn.Linear(6, 3),
        "conv": lambda: nn.Conv1d(3, 4, 2),
        "transposed": lambda: nn.ConvTranspose1d(3, 4, 1),
    }[kind]()
    layer = UnitLayer(3, {"c": 2 if kind == "linear" else 1})
    x = torch.rand(5, 3, 2)
    x[:, 1] = 0.7
    flat = x.flatten(1) if kind == "linear" else x
    before = consumer(flat)
    units = torch.tensor([False, True, False])
    changed = compensate_biases(layer, {"c": consumer}, units, torch.tensor([9.0, 0.7, 9.0]))
    silence_outgoing(layer, {"c": consumer}, units)
    torch.testing.assert_close(consumer(flat), before)
    assert changed[0] is consumer.bias


def test_a_consumer_without_bias_gets_nothing():
    consumer = nn.Linear(2, 2, bias=False)
    assert compensate_biases(UnitLayer(2, {"c": 1}), {"c": consumer}, torch.ones(2).bool(), torch.ones(2)) == []


def test_nothing_is_read_from_the_device():
    state = UnitUtility.fresh(4, "meta")
    nothing = torch.empty(4, device="meta")
    for _ in range(3):
        state.update(nothing, nothing, nothing, 0.9)
        number = state.due(0.5, 0)
        state.forget(state.least_useful(number, 0.9, 0), number)
        state.mean_activation(0.9)
