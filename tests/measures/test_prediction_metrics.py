"""The torchmetrics of prediction against their functions, in pieces and merged as over ranks."""

from __future__ import annotations

import math

import pytest
import torch

from plasticity_lightning.measures.prediction import linear_fit, timing_error
from plasticity_lightning.measures.prediction_metrics import ProbabilityFit, TimingError


def test_timing_error_over_pieces_is_that_of_all():
    peak = torch.tensor([310.0, 690.0, math.nan, 500.0])
    latencies = torch.tensor([[300.0, 700.0], [300.0, 700.0], [300.0, math.nan], [510.0, math.nan]])
    metric = TimingError()
    metric.update(peak[:1], latencies[:1])
    metric.update(peak[1:], latencies[1:])
    assert metric.compute().item() == pytest.approx(timing_error(peak, latencies).item()) == 10.0
    assert metric.missing.item() == 1
    assert TimingError().compute().isnan()


def test_timing_errors_of_two_ranks_add_up():
    both, one, other = TimingError(), TimingError(), TimingError()
    peak, latency = torch.tensor([310.0, 330.0, 290.0]), torch.full((3, 1), 300.0)
    both.update(peak, latency)
    one.update(peak[:1], latency[:1])
    other.update(peak[1:], latency[1:])
    merged = (one.error + other.error) / (one.peaks + other.peaks)
    assert merged == both.compute()


def test_probability_fit_is_that_of_all_points():
    x, y = torch.tensor([0.8, 0.2, 0.5, 0.5]), torch.tensor([0.7, 0.25, 0.4, 0.45])
    metric = ProbabilityFit()
    metric.update(x[:2], y[:2])
    metric.update(x[2:], y[2:])
    for a, b in zip(metric.compute(), linear_fit(x, y), strict=True):
        assert a.item() == pytest.approx(b.item())
    with pytest.warns(UserWarning, match="before"):
        assert ProbabilityFit().compute().r.isnan()
