"""Targets, loss and exploration of DrQ(eps), the value learner for Atari-100k, as functions of tensors.

A double Q-learning target over n steps, the Huber loss, and epsilon-greedy actions. Shapes: values [B, A], actions
int64 [B], rewards and discounts [B].

Sources: Kostrikov et al. 2020 (DrQ); Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice", whose
published settings (`DrQ_eps.gin`) the defaults of `DiscreteControl` follow.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from torch import Tensor

__all__ = ["double_q_target", "epsilon_greedy", "q_loss"]


def double_q_target(reward: Tensor, discount: Tensor, online_next: Tensor, target_next: Tensor) -> Tensor:
    """R_n + gamma_n Q'(s', argmax_a Q(s', a)).

    Args:
        reward: n-step return [B].
        discount: gamma_n [B], 0 behind a terminal state.
        online_next: values of the next state by the online network [B, A], which chooses the action.
        target_next: by the target network [B, A], which says what it is worth.
    """
    chosen = online_next.argmax(dim=1, keepdim=True)
    return reward + discount * target_next.gather(1, chosen).squeeze(1)


def q_loss(q: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """Mean Huber loss (threshold 1) of the taken actions' values, in float32 at least."""
    taken = q.gather(1, action[:, None]).squeeze(1)
    target = target.to(torch.promote_types(target.dtype, torch.float32))
    return F.huber_loss(taken.to(target.dtype), target)


def epsilon_greedy(q: Tensor, epsilon: float, draw: Tensor, random_action: Tensor) -> Tensor:
    """The best action, or a random one where the draw falls below epsilon.

    Args:
        q: values [B, A].
        epsilon: probability of a random action, in [0, 1].
        draw: uniform numbers in [0, 1) [B].
        random_action: uniform actions int64 [B].
    """
    return torch.where(draw < epsilon, random_action, q.argmax(dim=1))
