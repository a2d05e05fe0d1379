"""Continual backpropagation: at every step a few of the least useful mature units are replaced.

A unit's utility is u <- eta u + (1 - eta) E|h| * sum|W_out|, bias-corrected by its age; of the n units older than m
steps, rho * n per step are replaced (fractions add up): new incoming weights, outgoing weights 0, and what the unit gave
on average is added to the biases downstream, so that its loss is not felt at once. How many are replaced is known on
the host; which ones is decided on the device. Source: Dohare et al. 2024, algorithm 1, and their code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["UnitUtility"]


@dataclass
class UnitUtility:
    """Utilities and ages of the units of one layer.

    Args:
        utility: u, float32 [U].
        mean: running mean of the activation h, float32 [U], both without bias correction.
        age: steps since the unit was made, int64 [U].
        replaced: host's list of (steps since, how many) of the replacements among the units that are still young.
        credit: the fraction of a unit that is due.
        steps: steps so far.
    """

    utility: Tensor
    mean: Tensor
    age: Tensor
    replaced: list[list[int]] = field(default_factory=list)
    credit: float = 0.0
    steps: int = 0

    @classmethod
    def fresh(cls, units: int, device: torch.device | str = "cpu") -> UnitUtility:
        """State of a layer whose units are all new."""
        zeros = torch.zeros(units, device=device)
        return cls(zeros, zeros.clone(), torch.zeros(units, dtype=torch.int64, device=device))

    def update(self, mean_abs: Tensor, mean: Tensor, outgoing: Tensor, decay: float) -> None:
        """Account for one step.

        Args:
            mean_abs: E|h| over the batch, [U].
            mean: E h over the batch, [U].
            outgoing: sum of the absolute outgoing weights, [U].
            decay: eta of both traces, in [0, 1).
        """
        self.steps += 1
        self.age += 1
        self.utility.mul_(decay).add_((mean_abs * outgoing).to(self.utility), alpha=1 - decay)
        self.mean.mul_(decay).add_(mean.to(self.mean), alpha=1 - decay)
        self.replaced = [[since + 1, count] for since, count in self.replaced]

    def due(self, rate: float, maturity: int) -> int:
        """How many units are to be replaced in this step; call it once a step.

        Args:
            rate: rho, the fraction of the mature units replaced per step.
            maturity: m; a unit is mature when its age exceeds m steps.
        """
        self.replaced = [entry for entry in self.replaced if entry[0] <= maturity]
        young = sum(count for _, count in self.replaced)
        mature = self.age.numel() - young if self.steps > maturity else 0
        self.credit += rate * mature
        # rates such as 1e-4 add up with rounding errors: 10000 of them are 1
        number = min(int(self.credit + 1e-9), mature)
        self.credit -= number
        return number

    def least_useful(self, number: int, decay: float, maturity: int) -> Tensor:
        """Bool mask [U] of the `number` mature units of the lowest bias-corrected utility."""
        mature = self.age > maturity
        corrected = torch.where(mature, self.utility / self._correction(decay), torch.inf)
        mask = torch.zeros_like(mature)
        return mask.scatter_(0, corrected.topk(number, largest=False).indices, True) & mature

    def mean_activation(self, decay: float) -> Tensor:
        """Bias-corrected running mean of h, [U]."""
        return self.mean / self._correction(decay)

    def forget(self, mask: Tensor, number: int) -> None:
        """Make the units of `mask` new; `number` of them, as the host knows."""
        for trace in (self.utility, self.mean, self.age):
            trace.masked_fill_(mask, 0)
        self.replaced.append([0, number])

    def state_dict(self) -> dict[str, Any]:
        """The state in plain types."""
        return dict(vars(self))

    def _correction(self, decay: float) -> Tensor:
        return (1 - decay ** self.age.clamp(min=1)).to(self.utility)
