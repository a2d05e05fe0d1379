"""Which units are dormant, by hand and however the batch is cut."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity_lightning.interventions.redo import dormant_units
from plasticity_lightning.interventions.unit_surgery import ActivitySums
from plasticity_lightning.measures import dormant


def test_dormant_units_by_hand():
    # mean of 0, 0.08, 2, 1.92 is 1, so the scores are the sums; at tau = 0.1 the first two are dormant
    assert dormant_units(torch.tensor([0.0, 0.08, 2.0, 1.92], dtype=torch.float64), 0.1).tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert dormant_units(torch.zeros(3), 0.0).tolist() == [True] * 3
    assert not dormant_units(torch.tensor([torch.nan, 1.0]), 0.1).any()


@given(st.integers(0, 50), st.floats(0, 1))
def test_dormant_units_agree_with_the_measure_however_the_batch_is_cut(seed, tau):
    a = torch.randn(6, 5, 2, generator=torch.Generator().manual_seed(seed)).relu() * torch.tensor(
        [[0.01], [1], [2], [0], [3]]
    )
    sums = ActivitySums()
    for part in a.split(4):
        sums.update("a", part.movedim(1, -1).reshape(-1, 5))
    assert dormant_units(sums.sums["a"], tau).double().mean() == dormant(a, tau)
    assert sums.samples == {"a": 12}
