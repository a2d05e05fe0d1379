"""One bit flips between tasks; the target is a network of threshold units."""

from itertools import pairwise

import pytest
import torch

from plasticity_lightning.data import SlowlyChangingRegressionDataModule
from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.data.tasks.slowly_changing_regression import threshold_network


def test_threshold_network_by_hand():
    # m = 2 inputs and a bias, beta = 0.7: theta = 2.1 - number of negative weights
    hidden = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0]])  # theta 2.1 and 1.1
    output = torch.tensor([1.0, -1.0, 1.0])  # the last is the bias
    x = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    # unit 0: 3 > 2.1, 2 < 2.1, 1 < 2.1; unit 1: 1 < 1.1, 2 > 1.1, 1 < 1.1
    assert threshold_network(x, hidden, output, 0.7).tolist() == [[2.0], [0.0], [1.0]]


def test_exactly_one_slow_bit_flips_between_tasks_whatever_was_asked_before():
    data = SlowlyChangingRegressionDataModule(seed=3)
    states = [data.slow_bits(task) for task in range(12)]
    assert [int((a != b).sum()) for a, b in pairwise(states)] == [1] * 11
    assert torch.equal(SlowlyChangingRegressionDataModule(seed=3).slow_bits(11), states[11])


def test_samples_share_the_slow_bits_and_draw_the_others():
    data = SlowlyChangingRegressionDataModule(samples_per_task=200)
    x, y = data.task_batch(torch.arange(200), 5)
    assert x.shape == (200, 20)
    assert y.shape == (200, 1)
    assert torch.equal(x[:, :15], data.slow_bits(5).expand(200, -1))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert ((x[:, 15:].mean(0) - 0.5).abs() < 0.15).all()  # 4 standard errors
    assert not torch.equal(x, data.task_batch(torch.arange(200), 6)[0])
    assert y.std() > 0
    again = SlowlyChangingRegressionDataModule(samples_per_task=200).task_batch(torch.tensor([7, 2]), 5)
    assert torch.equal(again[0], x[[7, 2]])
    assert torch.equal(again[1], y[[7, 2]])


@pytest.mark.parametrize(
    "wrong", [{"n_bits": 0}, {"n_slow": 21}, {"n_units": 0}, {"beta": 1.0}, {"samples_per_task": 0}]
)
def test_arguments_out_of_range_are_named(wrong):
    (name,) = wrong
    with pytest.raises(DataArgumentError, match=name):
        SlowlyChangingRegressionDataModule(**wrong)
