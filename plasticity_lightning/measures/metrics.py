"""The measures as torchmetrics: accumulate over batches, calls and ranks, read rarely.

Each class is a thin state over a pure function of this package. Counts are int64 and sums float64, all reduced by
summation, so that the value under DDP equals that of one process on all the data; ranks gather the features of the
probe batch. `update` never synchronises the device. A module that is called several times in a step (a shared
encoder) simply updates several times.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from plasticity_lightning.measures import activity
from plasticity_lightning.measures.accumulate import Accumulation
from plasticity_lightning.measures.activity import Saturating
from plasticity_lightning.measures.rank import FeatureRanks, feature_ranks
from plasticity_lightning.measures.spiking import firing_rate, rate_cv, silent
from plasticity_lightning.measures.units import check_unit_mask, feature_matrix

__all__ = [
    "Accumulated",
    "ActiveFraction",
    "FeatureRank",
    "MeanOf",
    "Saturated",
    "ShareOf",
    "SpikeStatistics",
    "UnitActivity",
]


class MeanOf(Metric):
    """Mean over updates and ranks of a scalar measure: `grad_norm` at each step, `activation_norm` of each batch.

    For weights and gradients under DDP, which are equal on all ranks, the mean over ranks is the value itself.

    Args:
        measure: pure function that returns a scalar tensor, called with the arguments of `update`.
    """

    full_state_update = False
    value_sum: Tensor
    updates: Tensor

    def __init__(self, measure: Callable[..., Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.measure = measure
        self.add_state("value_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("updates", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Measure once."""
        self.value_sum += self.measure(*args, **kwargs).detach().double()
        self.updates += 1

    def compute(self) -> Tensor:
        """Mean; NaN before the first update."""
        return self.value_sum / self.updates


class ShareOf(Metric):
    """A share of entries accumulated: the entries that the measure counts over all entries of everything that was given.

    The counts are exact: what the measure returns, times the entries, is a whole number again below 2**52 entries an
    update. States: `count` (float64, so that NaN stays NaN) and `total`, both summed. Value: scalar float64; NaN before
    the first update.

    Args:
        measure: pure function of a tensor that returns the share of its entries that it counts.
    """

    full_state_update = False
    count: Tensor
    total: Tensor

    def __init__(self, measure: Callable[[Tensor], Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.measure = measure
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, *tensors: Tensor) -> None:
        """Add the outputs of one or more layers, any shapes."""
        for tensor in tensors:
            self.count += (self.measure(tensor).detach().double() * tensor.numel()).round()
            self.total += tensor.numel()

    def compute(self) -> Tensor:
        """The share."""
        return self.count / self.total


class ActiveFraction(ShareOf):
    """`fau` accumulated: active over all (sample, unit) pairs of everything that was given, one or several layers."""

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(activity.fau, **kwargs)


class Saturated(ShareOf):
    """`saturated` accumulated.

    Args:
        function: the bounded nonlinearity.
    """

    higher_is_better = False

    def __init__(self, function: Saturating = "tanh", **kwargs: Any) -> None:
        activity.saturated(torch.zeros(1), function)  # an unknown name fails here
        super().__init__(partial(activity.saturated, function=function), **kwargs)


class Accumulated(Metric):
    """Statistics of several calls, batches and processes, as an `Accumulation` says; finish them with its `finish`.

    Args:
        accumulation: how to gather.
        first: statistics of a first call, which tell number and shapes; they are not added.
    """

    full_state_update = False

    def __init__(self, accumulation: Accumulation, first: tuple[Tensor, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.accumulation, self._kind = accumulation, type(first)
        for i, statistic in enumerate(first):
            start: Any = [] if accumulation.gather == "cat" else torch.zeros_like(statistic)
            self.add_state(f"statistic{i}", start, dist_reduce_fx=accumulation.gather)

    def update(self, statistics: tuple[Tensor, ...]) -> None:
        """Add the statistics of a call."""
        for i, statistic in enumerate(statistics):
            if self.accumulation.gather == "cat":
                getattr(self, f"statistic{i}").append(statistic)
            else:
                setattr(self, f"statistic{i}", getattr(self, f"statistic{i}") + statistic)

    def gathered(self) -> Any:
        """The statistics as `finish` takes them: prepared, or of the type that `update` returns."""
        found = []
        for i in range(len(self._defaults)):
            state = getattr(self, f"statistic{i}")
            found.append(torch.cat(state) if isinstance(state, list) else state)
        if self.accumulation.prepare is not None:
            return self.accumulation.prepare(*found)
        return self._kind(*found) if hasattr(self._kind, "_fields") else tuple(found)

    def compute(self) -> Tensor:
        """The measure with its default options."""
        return self.accumulation.finish(self.gathered())


class UnitActivity(Metric):
    """`fau`, `ever_active` and `dormant` of one layer from one pass over its output, with the statistics of each unit.

    States, all summed: those of `activity.UnitSums`.

    Args:
        n_units: U of the layer, as `samples_by_units` counts it.
        unit_dim: dimension of units.
        spatial_units: count every position of every channel as a unit.
        tau: threshold of `dormant`.
        unit_mask: bool [U], True for units that count.
    """

    full_state_update = False
    active: Tensor
    abs_sum: Tensor
    samples: Tensor
    unit_mask: Tensor | None

    def __init__(
        self,
        n_units: int,
        unit_dim: int = 1,
        spatial_units: bool = False,
        tau: float = 0.025,
        unit_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if n_units < 1:
            raise ValueError(f"n_units={n_units} must be at least 1")
        check_unit_mask(unit_mask, n_units)
        self.n_units, self.unit_dim, self.spatial_units, self.tau = n_units, unit_dim, spatial_units, tau
        self.register_buffer("unit_mask", unit_mask, persistent=False)
        self.add_state("active", torch.zeros(n_units, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("abs_sum", torch.zeros(n_units, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, activation: Tensor) -> None:
        """Add an output [B, units, ...] of the layer."""
        sums = activity.unit_sums(activation, self.unit_dim, self.spatial_units)
        if len(sums.active) != self.n_units:
            raise ValueError(
                f"activation has {len(sums.active)} units, this metric was made for n_units={self.n_units}"
            )
        self.active += sums.active
        self.abs_sum += sums.abs_sum
        self.samples += sums.samples

    def compute(self) -> dict[str, Tensor]:
        """`fau`, `ever_active`, `dormant`, scalars float64; NaN before the first update."""
        active = self.active if self.unit_mask is None else self.active[self.unit_mask]
        sums = activity.UnitSums(self.active, self.abs_sum, self.samples)
        return {
            "fau": active.sum().double() / (self.samples * len(active)),
            "ever_active": activity.ever_active_fraction(sums, self.unit_mask),
            "dormant": activity.dormant_fraction(self.abs_sum / self.samples, self.tau, self.unit_mask),
        }

    def unit_rates(self) -> Tensor:
        """Fraction of samples at which each unit is active, [U] float64, of this process: for histograms."""
        return self.active.double() / self.samples


class FeatureRank(Metric):
    """`feature_ranks` of the features gathered over the probe batch and all ranks.

    State: `features`, a list that is concatenated; keep to a probe batch. The order of the ranks does not matter.

    Args:
        unit_dim: dimension of units.
        pool: average positions (or flatten them).
        center: subtract the mean of each feature first.
        delta: of `srank`.
        share: of `pca_rank`.
    """

    full_state_update = False
    features: list[Tensor]

    def __init__(
        self,
        unit_dim: int = 1,
        pool: bool = True,
        center: bool = False,
        delta: float = 0.01,
        share: float = 0.99,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.unit_dim, self.pool, self.center, self.delta, self.share = unit_dim, pool, center, delta, share
        self.add_state("features", [], dist_reduce_fx="cat")

    def update(self, activation: Tensor) -> None:
        """Add an output [B, units, ...] of the layer."""
        self.features.append(feature_matrix(activation, self.unit_dim, self.pool).clone())

    def compute(self) -> FeatureRanks:
        """All four ranks, with B and d.

        Raises:
            ValueError: before the first update.
        """
        parts = [self.features] if isinstance(self.features, Tensor) else self.features
        gathered = torch.cat(parts) if parts else torch.empty(0)
        if not gathered.numel():  # synchronised metrics hold an empty tensor instead of an empty list
            raise ValueError("FeatureRank has no features: update it with the output of a layer first")
        return feature_ranks(gathered, self.delta, self.share, self.center)


class SpikeStatistics(Metric):
    """`silent`, `firing_rate` (mean, Hz), `rate_cv` and `fano` of a spiking layer, from counts per recording.

    States: `count_sum` [N], `square_sum` [N], `recordings`, int64 and summed, so that the Fano factor is exact too.

    Args:
        n_units: N.
        duration: of a recording in ms, the same for all.
    """

    full_state_update = False
    count_sum: Tensor
    square_sum: Tensor
    recordings: Tensor

    def __init__(self, n_units: int, duration: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if n_units < 1:
            raise ValueError(f"n_units={n_units} must be at least 1")
        if not duration > 0:
            raise ValueError(f"duration={duration} must be positive, in ms")
        self.n_units, self.duration = n_units, duration
        self.add_state("count_sum", torch.zeros(n_units, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("square_sum", torch.zeros(n_units, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("recordings", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, counts: Tensor) -> None:
        """Add spike counts [B, N] of B recordings (`spike_counts` makes them from spikes [T, B, N])."""
        if counts.ndim != 2 or counts.shape[1] != self.n_units:
            raise ValueError(f"counts must be [B, n_units={self.n_units}]; the shape is {tuple(counts.shape)}")
        counts = counts.detach().long()
        self.count_sum += counts.sum(0)
        self.square_sum += (counts * counts).sum(0)
        self.recordings += len(counts)

    def compute(self) -> dict[str, Tensor]:
        """Scalars float64; `fano` is NaN below two recordings, `rate_cv` and `fano` where all are silent."""
        mean = self.count_sum.double() / self.recordings
        # integer numerator: n * sum x^2 - (sum x)^2 has no cancellation
        numerator = self.recordings * self.square_sum - self.count_sum**2
        variance = numerator.double() / (self.recordings * (self.recordings - 1))
        return {
            "silent": torch.where(self.recordings > 0, silent(self.count_sum.unsqueeze(0)), torch.nan),
            "firing_rate": firing_rate(mean, self.duration).mean(),
            "rate_cv": rate_cv(mean.unsqueeze(0)),
            "fano": (variance / mean)[mean > 0].mean(),
        }
