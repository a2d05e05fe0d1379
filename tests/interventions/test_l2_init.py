"""The pull towards the initial weights equals the gradient of the penalty."""

import pytest
import torch

from plasticity_lightning.interventions.l2_init import add_anchor_gradient, pull_to_anchors, squared_distance


def test_the_added_gradient_is_that_of_the_penalty_in_the_loss():
    w = torch.randn(3, 2, requires_grad=True)
    w0, x, strength = torch.randn(3, 2), torch.randn(4, 3), 0.3
    ((x @ w).square().sum() + strength * (w - w0).square().sum()).backward()
    expected, w.grad = w.grad, None
    (x @ w).square().sum().backward()
    add_anchor_gradient([w], [w0], strength)
    torch.testing.assert_close(w.grad, expected)


def test_a_parameter_without_gradient_gets_that_of_the_penalty():
    w = torch.tensor([3.0], requires_grad=True)
    add_anchor_gradient([w], [torch.tensor([1.0])], 0.5)
    assert w.grad.item() == 2.0  # 2 * 0.5 * (3 - 1)


@pytest.mark.parametrize(("amount", "expected"), [(0.0, 3.0), (0.25, 2.5), (1.0, 1.0)])
def test_the_pull_by_hand(amount, expected):
    w = torch.tensor([3.0])
    pull_to_anchors([w], [torch.tensor([1.0])], amount)
    assert w.item() == expected


def test_distance_by_hand():
    assert squared_distance([torch.tensor([3.0, 0.0]), torch.tensor(2.0)], [torch.zeros(2), torch.ones(())]) == 10.0
    assert squared_distance([], []) == 0.0
