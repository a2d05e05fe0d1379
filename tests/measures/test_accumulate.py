"""A measure that states how it accumulates: the parts together give what the function gives of the whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.measures import MEASURES
from plasticity_lightning.measures.accumulate import accumulated, accumulation_of
from plasticity_lightning.measures.metrics import Accumulated

STATED = [name for name, measure in MEASURES.items() if accumulation_of(measure.function)]


def test_which_measures_are_of_the_whole_batch():
    assert STATED == ["ever_active", "dormant", "srank", "effective_rank", "stable_rank", "pca_rank"]


@pytest.mark.parametrize("name", STATED)
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), units=st.integers(1, 6))
def test_calls_in_parts_give_the_value_of_the_whole(name, seed, sizes, units):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, units, generator=generator).sub(0.5).relu() for n in sizes]
    function = MEASURES[name].function
    accumulation = accumulation_of(function)
    metric = Accumulated(accumulation, accumulation.update(parts[0]))
    for part in parts:
        metric.update(accumulation.update(part))
    torch.testing.assert_close(metric.compute(), function(torch.cat(parts)), rtol=1e-12, atol=0)
    metric.reset()
    metric.update(accumulation.update(parts[0]))
    torch.testing.assert_close(metric.compute(), function(parts[0]), rtol=1e-12, atol=0)


def test_one_unit_keeps_its_dimension():
    # torchmetrics squeezes what compute returns; statistics of one unit are still a vector
    accumulation = accumulation_of(MEASURES["dormant"].function)
    metric = Accumulated(accumulation, accumulation.update(torch.ones(3, 1)))
    metric.update(accumulation.update(torch.ones(3, 1)))
    assert metric.gathered().active.shape == (1,)


def test_without_a_finish_the_function_finishes():
    @accumulated(lambda a: (a.sum(0), torch.tensor(len(a))), "sum")
    def largest_mean(sums):
        return (sums[0] / sums[1]).max()

    accumulation = accumulation_of(largest_mean)
    metric = Accumulated(accumulation, accumulation.update(torch.ones(1, 2)))
    for part in (torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 0.0], [6.0, 2.0]])):
        metric.update(accumulation.update(part))
    assert metric.compute() == 3.0  # (1 + 2 + 6) / 3 and (4 + 0 + 2) / 3
