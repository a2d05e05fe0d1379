"""Identity, learned offline.

Synapses keep a tag of the activity before the outcome, and the interval between trials turns it into weights.

The tag T is the mean input over the last samples strictly before the onset, so that nothing the outcome evokes can
enter its own prediction. With the outcome o (one-hot) one update of readout k is dW_k = eta (o_k - W_k . T) T /
(|T|^2 + 0.001), and the fixed point W_k . T = p(k | T). The interval holds one update at a large rate, or several at
a small one that replay the newest tags from a ring buffer.

Shapes: weight [..., K, N], tag [..., N], outcome [..., K], any leading dimensions (lanes).
Source: an independent model, see docs/papers/prediction_object.md; synaptic tagging: Frey & Morris 1997.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["TagBuffer", "consolidate", "onset_tag", "remember_tag", "replay_tags", "tag_buffer"]


class TagBuffer(NamedTuple):
    """The newest tags, newest first.

    `tag` [..., M, N], their outcomes [..., M, K], and how many entries are filled, int64 [...].
    """

    tag: Tensor
    outcome: Tensor
    filled: Tensor


def onset_tag(x: Tensor, time: Tensor, onset: Tensor, width_ms: float = 20.0) -> Tensor:
    """Mean input over the samples in [onset - width, onset).

    Args:
        x: inputs of a trial [L, T, N].
        time: of its samples in ms [T].
        onset: of the outcome in ms [L].
        width_ms: positive.

    Returns:
        [L, N]; 0 where no sample lies in the window.

    Raises:
        ValueError: if width_ms is not positive.
    """
    if not width_ms > 0:
        raise ValueError(f"width_ms={width_ms} must be positive")
    lead = onset[:, None] - time[None, :]
    inside = ((lead > 0) & (lead <= width_ms)).to(x.dtype)
    return (inside[:, None, :] @ x)[:, 0] / inside.sum(1, keepdim=True).clamp(min=1)


def consolidate(
    weight: Tensor, tag: Tensor, outcome: Tensor, gate: Tensor, eta: Tensor | float = 0.2
) -> tuple[Tensor, Tensor]:
    """One update by one tag.

    Args:
        weight: the state [..., K, N].
        tag: [..., N].
        outcome: one-hot [..., K].
        gate: [...]: 0 where the trial is not learned from: a probe, or an omission, so that the weights code p(k |
            event).
        eta: learning rate, number or [..., K]; the memory is about 1 / eta trials.

    Returns:
        (weights after it, prediction W . T [..., K] before it).
    """
    predicted = (weight @ tag[..., None])[..., 0]
    change = eta * gate[..., None] * (outcome - predicted) / (tag.square().sum(-1, keepdim=True) + 0.001)
    return weight + change[..., None] * tag[..., None, :], predicted


def tag_buffer(weight: Tensor, length: int = 15) -> TagBuffer:
    """An empty buffer for weights [..., K, N].

    Raises:
        ValueError: if length < 1.
    """
    if length < 1:
        raise ValueError(f"length={length} must be at least 1 tag")
    *lanes, k, n = weight.shape
    return TagBuffer(
        weight.new_zeros(*lanes, length, n),
        weight.new_zeros(*lanes, length, k),
        torch.zeros(lanes, dtype=torch.int64, device=weight.device),
    )


def remember_tag(buffer: TagBuffer, tag: Tensor, outcome: Tensor, gate: Tensor) -> TagBuffer:
    """The buffer with a tag [..., N] and its outcome [..., K] in front, in the lanes whose gate [...] is not 0."""
    kept = (gate > 0)[..., None, None]
    tags = torch.cat([tag[..., None, :], buffer.tag[..., :-1, :]], -2)
    outcomes = torch.cat([outcome[..., None, :], buffer.outcome[..., :-1, :]], -2)
    filled = (buffer.filled + (gate > 0)).clamp(max=buffer.tag.shape[-2])
    return TagBuffer(torch.where(kept, tags, buffer.tag), torch.where(kept, outcomes, buffer.outcome), filled)


def replay_tags(
    weight: Tensor, buffer: TagBuffer, gate: Tensor, eta: Tensor | float = 0.05, updates: int = 8
) -> tuple[Tensor, Tensor]:
    """`updates` updates by the buffered tags, newest first and from the front again when all are through.

    Args:
        weight: the state [..., K, N].
        buffer: with the trial's own tag in front.
        gate: [...]: 0 skips the lane.
        eta: learning rate of each update, number or [..., K].
        updates: at least 1.

    Returns:
        (weights after them, prediction of the newest tag [..., K] before them).

    Raises:
        ValueError: if updates < 1.
    """
    if updates < 1:
        raise ValueError(f"updates={updates} must be at least 1")
    first = (weight @ buffer.tag[..., 0, :, None])[..., 0]
    for i in range(updates):
        index = torch.remainder(torch.full_like(buffer.filled, i), buffer.filled.clamp(min=1))
        tag = torch.take_along_dim(buffer.tag, index[..., None, None], -2)[..., 0, :]
        outcome = torch.take_along_dim(buffer.outcome, index[..., None, None], -2)[..., 0, :]
        weight, _ = consolidate(weight, tag, outcome, gate * (buffer.filled > 0), eta)
    return weight, first
