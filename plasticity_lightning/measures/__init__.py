"""How plastic is a network? Pure functions of tensors."""

from plasticity_lightning.measures.kernel import (
    approximation_rank,
    balanced_draws,
    count_rank,
    kernel_quality,
    separation_rank,
)
from plasticity_lightning.measures.spiking import (
    RateSummary,
    branching_factor,
    fano,
    firing_rate,
    isi_cv,
    participation_ratio,
    rate_cv,
    rate_summary,
    silent,
    spike_counts,
    synchrony,
)

__all__ = [
    "RateSummary",
    "approximation_rank",
    "balanced_draws",
    "branching_factor",
    "count_rank",
    "fano",
    "firing_rate",
    "isi_cv",
    "kernel_quality",
    "participation_ratio",
    "rate_cv",
    "rate_summary",
    "separation_rank",
    "silent",
    "spike_counts",
    "synchrony",
]
