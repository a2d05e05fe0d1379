"""DrQ-v2's targets, losses and noise against numbers by hand and against torch's own truncated formula."""

import math

import pytest
import torch
from torch import nn

from plasticity_lightning.control.actor_critic import (
    actor_loss,
    bootstrapped_target,
    critic_loss,
    noisy_action,
    soft_update,
)


def test_noise_is_clipped_before_and_the_action_after():
    mean = torch.tensor([[0.0, 0.0, 0.9, -0.95]])
    noise = torch.tensor([[0.1, 3.0, 1.0, -1.0]])
    action = noisy_action(mean, 0.5, noise, noise_clip=0.3)
    # 0.5 * 0.1 = 0.05; 1.5 held at 0.3; 0.9 + 0.3 and -0.95 - 0.3 held at the edge
    assert torch.allclose(action, torch.tensor([[0.05, 0.3, 1 - 1e-6, -1 + 1e-6]]))
    unclipped = noisy_action(mean, 0.5, noise)
    assert torch.allclose(unclipped, torch.tensor([[0.05, 1 - 1e-6, 1 - 1e-6, -1 + 1e-6]]))


def test_clamp_passes_the_gradient_straight_through():
    mean = torch.tensor([[0.99, 0.0]], requires_grad=True)
    noisy_action(mean, 1.0, torch.tensor([[1.0, 0.0]])).sum().backward()
    assert mean.grad.tolist() == [[1.0, 1.0]]  # also where the action was held at the edge


def test_target_takes_the_smaller_estimate_and_ends_at_a_terminal_state():
    reward, discount = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [0.0]])
    target = bootstrapped_target(reward, discount, torch.tensor([[4.0], [9.0]]), torch.tensor([[6.0], [8.0]]))
    assert target.tolist() == [[3.0], [2.0]]  # 1 + 0.5 * 4; nothing follows the second


def test_losses_by_hand():
    q1, q2, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [0.0]])
    assert critic_loss(q1, q2, y).item() == (0 + 4) / 2 + (1 + 16) / 2
    assert actor_loss(q1, q2).item() == -(0 + 2) / 2


def test_losses_of_half_precision_are_computed_in_float32():
    q = torch.full((3, 1), 0.1, dtype=torch.bfloat16)
    assert critic_loss(q, q, torch.zeros(3, 1)).dtype == torch.float32
    assert actor_loss(q, q).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_update_by_the_definition(dtype):
    torch.manual_seed(0)
    target, source = (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(dtype) for _ in range(2))
    source[1].running_mean.fill_(7)
    before = [p.detach().clone() for p in target.parameters()]
    soft_update(target, source, 0.01)
    for p, old, new in zip(target.parameters(), before, source.parameters(), strict=True):
        assert torch.allclose(p, 0.99 * old + 0.01 * new, rtol=0, atol=2 * torch.finfo(dtype).eps)
    assert target[1].running_mean.tolist() == [7, 7]


def test_noise_has_the_distribution_of_a_held_normal():
    generator = torch.Generator().manual_seed(0)
    action = noisy_action(torch.zeros(200_000, 1), 0.5, torch.randn(200_000, 1, generator=generator))
    # P(|x| > 1) of N(0, 0.25) = 2 (1 - Phi(2)) = 0.0455
    assert (action.abs() > 1 - 1e-5).double().mean().item() == pytest.approx(0.0455, abs=3 * math.sqrt(0.0455 / 2e5))
