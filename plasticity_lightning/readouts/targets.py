"""What a readout is asked to give over a trial.

The evoked response to an outcome, or a supervised bump around its onset.

Shapes: time [T] in ms after cue onset, onset [L] in ms (negative: no outcome), outcome int64 [L] (-1: none); targets
[L, T, ...]. Source: an independent model, see docs/papers/prediction_object.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["evoked_response", "gaussian_target", "outcome_one_hot", "per_readout"]


def evoked_response(time: Tensor, onset: Tensor, peak_ms: float = 60.0) -> Tensor:
    """sin^2(pi (t - t*) / (2 peak)) for 0 < t - t* < 2 peak, else 0, [L, T].

    What an outcome evokes in the readout layer; it peaks `peak_ms` late.
    """
    since = time[None, :] - onset[:, None].to(time)
    inside = (since > 0) & (since < 2 * peak_ms) & (onset[:, None] >= 0)
    return torch.where(inside, torch.sin(torch.pi * since / (2 * peak_ms)).square(), 0.0)


def gaussian_target(time: Tensor, onset: Tensor, sigma_ms: float = 40.0) -> Tensor:
    """exp(-(t - t*)^2 / (2 sigma^2)), 0 where no outcome comes, [L, T].

    The target of a teacher who knows the onset beforehand.
    """
    since = time[None, :] - onset[:, None].to(time)
    return torch.where(onset[:, None] >= 0, torch.exp(-0.5 * (since / sigma_ms).square()), 0.0)


def outcome_one_hot(outcome: Tensor, n_outcomes: int) -> Tensor:
    """float32 [L, K]; a row of 0 where no outcome came."""
    return torch.nn.functional.one_hot(outcome.clamp(min=0), n_outcomes).float() * (outcome >= 0)[:, None]


def per_readout(response: Tensor, outcome: Tensor, n_outcomes: int) -> Tensor:
    """A response [L, T] as the target of the event and of the outcome that came, [L, T, 1 + K]; 0 for the others."""
    which = outcome_one_hot(outcome, n_outcomes).to(response)
    which = torch.cat([torch.ones_like(which[:, :1]), which], 1)
    return response[..., None] * which[:, None, :]
