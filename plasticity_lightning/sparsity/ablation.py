"""SRigL's update of one layer: constant fan-in, and neurons that are no longer worth their weights are ablated.

A weight is salient if it is among those that magnitude would keep, or among as many absent ones as are exchanged that the
gradient would grow. A neuron with fewer salient weights than gamma times the fan-in loses all of them; the others share
its weights, so that the layer's budget is spent at every event but for the remainder of a division.

Source: Lasby et al. 2024 (SRigL), section 3, and its published code (`rigl_constant_fan.py`).
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from torch import Tensor

from plasticity_lightning.sparsity.masks import count, top_n
from plasticity_lightning.sparsity.structured import limit_mask, within_capacity

__all__ = ["AblatingUpdate", "ablating_update", "active_neurons", "salient_counts"]


class AblatingUpdate(NamedTuple):
    """What an update of one layer decides.

    Attributes:
        mask: every active neuron has one fan-in, the others have no weight.
        remaining: what was left of the old mask before growth; a weight that was dropped may have grown again.
        fan_in: of the active neurons.
    """

    mask: Tensor
    remaining: Tensor
    fan_in: int


def ablating_update(
    mask: Tensor, drop_score: Tensor, grow_score: Tensor, n_exchanged: int, budget: int, gamma: float
) -> AblatingUpdate:
    """Ablate, drop and grow in one layer.

    Args:
        mask: bool [out, in, ...].
        drop_score: of living weights, the highest stay; ranked over the whole layer.
        grow_score: of absent ones, the highest come; ranked within each neuron.
        n_exchanged: K, living weights to drop, at most all.
        budget: weights that the layer may have, at least one; the fan-in is floor(budget / active neurons), at least 1, at
            most all inputs.
        gamma: see `active_neurons`.
    """
    inputs = mask[0].numel()
    salient = salient_counts(mask, drop_score, grow_score, n_exchanged)
    active = active_neurons(salient, max(1, budget // len(mask)), gamma, least=ceil(budget / inputs))
    fan_in = min(inputs, max(1, budget // count(active)))
    of_active = active.view(-1, *[1] * (mask.ndim - 1))
    candidates = mask & of_active
    n_kept = min(count(mask) - n_exchanged, count(candidates))
    remaining = limit_mask(drop_score, fan_in, inputs, top_n(drop_score, n_kept, candidates))
    grown = within_capacity(remaining, grow_score, fan_in, inputs) & of_active
    return AblatingUpdate(remaining | grown, remaining, fan_in)


def salient_counts(mask: Tensor, drop_score: Tensor, grow_score: Tensor, n_exchanged: int) -> Tensor:
    """Salient weights of each neuron, [out]: of the living ones all but the K lowest, of the absent ones the K highest."""
    absent = ~mask
    kept = top_n(drop_score, count(mask) - n_exchanged, mask)
    wanted = top_n(grow_score, min(n_exchanged, count(absent)), absent)
    return (kept | wanted).flatten(1).sum(1)


def active_neurons(salient: Tensor, fan_in: int, gamma: float, least: int) -> Tensor:
    """Which neurons stay or come back, bool [out].

    Args:
        salient: salient weights of each neuron.
        fan_in: of the layer if none were ablated.
        gamma: share of it that must be salient, in [0, 1]: at least max(1, floor(gamma * fan_in)) weights are asked for.
        least: how many neurons are needed to hold the layer's weights; the most salient stay if fewer pass, ties to the
            lower index. At least one does.
    """
    passed = salient >= max(1, int(gamma * fan_in + 1e-9))
    if count(passed) >= max(1, least):
        return passed
    return top_n(salient, max(1, least))
