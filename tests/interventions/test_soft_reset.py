"""The drift by hand."""

import torch

from plasticity_lightning.interventions.soft_reset import drift_factor, drift_towards


def test_weights_drift_only_where_going_back_lowers_the_loss():
    w, w0 = torch.tensor([2.0, 0.0]), torch.zeros(2)
    # <g, W - W_0> = 2: going back lowers the loss; gamma = 1 - 0.1 * 2
    torch.testing.assert_close(drift_factor(torch.tensor([1.0, 5.0]), w, w0, 0.1, 0.0), torch.tensor(0.8))
    assert drift_factor(torch.tensor([-1.0, 5.0]), w, w0, 0.1, 0.0) == 1.0
    assert drift_factor(torch.tensor([100.0, 0.0]), w, w0, 0.1, 0.75) == 0.75
    assert drift_factor(torch.tensor([torch.inf, 0.0]), w, w0, 0.1, 0.75) == 1.0
    assert drift_factor(torch.tensor([1.0, 5.0]), w0, w0, 0.1) == 1.0


def test_gamma_is_one_step_of_gradient_descent_on_the_loss():
    w, w0 = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    target = torch.randn(4, dtype=torch.float64)
    gamma = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (gamma * w + (1 - gamma) * w0 - target).square().sum().backward()
    expected = (1 - 0.01 * gamma.grad).clamp(0, 1)
    gradient = 2 * (w - target)
    torch.testing.assert_close(drift_factor(gradient, w, w0, 0.01, 0.0), expected.float())


def test_drifting_by_hand():
    w = torch.tensor([2.0, 4.0])
    drift_towards(w, torch.tensor([0.0, 8.0]), torch.tensor(0.75))
    assert w.tolist() == [1.5, 5.0]
