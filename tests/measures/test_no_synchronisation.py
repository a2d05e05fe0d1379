"""Cheap measures and metric updates never read a value or a size from the device.

Under FakeTensorMode tensors have no values: whatever would wait for the device (`.item()`, branching on a tensor,
boolean indexing) raises.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from plasticity_lightning.measures import activity, gradients, metrics, spiking, weights

MASK = (3,)


def masked(measure):
    return lambda a: measure(a, unit_mask=torch.ones(MASK, dtype=torch.bool))


CHEAP = {
    "fau": lambda a: activity.fau(a, a),
    "ever_active": masked(activity.ever_active),
    "dormant": masked(activity.dormant),
    "saturated": activity.saturated,
    "zero_grad_units": masked(lambda a, unit_mask: activity.zero_grad_units(a, torch.relu, unit_mask=unit_mask)),
    "activation_norm": activity.activation_norm,
    "weight_norm": lambda a: weights.weight_norm(a, torch.ones(4, 3, dtype=torch.bool)),
    "weight_rms": lambda a: weights.weight_rms(a, torch.ones(4, 3, dtype=torch.bool)),
    "distance_from_init": lambda a: weights.distance_from_init(a, torch.ones(4, 3)),
    "spectral_norm": lambda a: weights.spectral_norm(a, torch.ones(3)),
    "grad_norm": lambda a: gradients.grad_norm([a, None]),
    "grad_sparsity": lambda a: gradients.grad_sparsity([a, a], [None, torch.ones(4, 3, dtype=torch.bool)]),
    "grad_direction": lambda a: gradients.grad_direction([a], gradients.grad_direction([a])),
    "rate_cv": spiking.rate_cv,
    "silent": spiking.silent,
    "ActiveFraction": lambda a: metrics.ActiveFraction().update(a),
    "UnitActivity": lambda a: metrics.UnitActivity(3).update(a),
    "Saturated": lambda a: metrics.Saturated().update(a),
    "FeatureRank": lambda a: metrics.FeatureRank().update(a),
    "SpikeStatistics": lambda a: metrics.SpikeStatistics(3, 1.0).update(a),
    "MeanOf": lambda a: metrics.MeanOf(activity.fau).update(a),
}


@pytest.mark.parametrize("name", CHEAP)
def test_a_cheap_measure_needs_no_value(name):
    with FakeTensorMode():
        CHEAP[name](torch.ones(4, 3))


def test_the_check_sees_a_synchronisation():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        bool(torch.ones(1).sum() > 0)
