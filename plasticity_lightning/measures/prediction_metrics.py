"""Measures of prediction as torchmetrics: errors of timing and the line of amplitude on probability, accumulated over trials, lanes and ranks.

States are sums, so that a value over several processes is that of one process with all the data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from plasticity_lightning.measures.prediction import LinearFit, linear_fit

__all__ = ["ProbabilityFit", "TimingError"]


class TimingError(Metric):
    """Mean of |peak - nearest latency| in ms; peaks that are NaN (nothing was predicted) are counted apart.

    States, summed: `error`, `peaks`, `missing`. Value: scalar float64; NaN before the first peak.
    """

    full_state_update = False
    higher_is_better = False
    error: Tensor
    peaks: Tensor
    missing: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("error", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("peaks", "missing"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, peak: Tensor, latencies: Tensor) -> None:
        """Add peaks [n] in ms and the latencies that were possible [n, M] (NaN behind the last)."""
        nearest = (peak[:, None] - latencies).abs().nan_to_num(torch.inf).amin(1).double()
        found = nearest.isfinite()
        self.error += nearest[found].sum()
        self.peaks += found.sum()
        self.missing += (~found).sum()

    def compute(self) -> Tensor:
        """Mean error in ms."""
        return self.error / self.peaks


class ProbabilityFit(Metric):
    """`linear_fit` of amplitudes on probabilities over everything that was given.

    State: `points` [2, n], gathered. Value: `LinearFit` of scalars float64; NaN where one of both does not vary.
    """

    full_state_update = False
    points: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("points", [], dist_reduce_fx="cat")

    def update(self, probability: Tensor, amplitude: Tensor) -> None:
        """Add probabilities and amplitudes of one shape."""
        self.points.append(torch.stack([probability.flatten(), amplitude.flatten()], 1).double())

    def compute(self) -> LinearFit:
        """r, slope and intercept."""
        parts = [self.points] if isinstance(self.points, Tensor) else self.points
        points = torch.cat(parts) if parts else torch.empty(0, 2, dtype=torch.float64)
        return linear_fit(points[:, 0], points[:, 1])
