"""Continual backpropagation against a naive reference that keeps every unit as a Python object."""

import pytest
import torch

from plasticity_lightning.interventions.continual_backprop import UnitUtility


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


def test_nothing_is_read_from_the_device():
    state = UnitUtility.fresh(4, "meta")
    nothing = torch.empty(4, device="meta")
    for _ in range(3):
        state.update(nothing, nothing, nothing, 0.9)
        number = state.due(0.5, 0)
        state.forget(state.least_useful(number, 0.9, 0), number)
        state.mean_activation(0.9)
