"""How plastic is a network? Pure functions of tensors, and torchmetrics over them.

`MEASURES` lists them all with what they need and cost, one `Measure` each. The parts that a few callers want alone (a Hessian operator, a
copy without hooks) are imported from their files: `measures.curvature`, `measures.isolation`, `measures.trainability`.
"""

from plasticity_lightning.measures.accumulate import accumulated
from plasticity_lightning.measures.activity import (
    activation_norm,
    dormant,
    dormant_scores,
    ever_active,
    fau,
    saturated,
    zero_grad_units,
)
from plasticity_lightning.measures.aggregate import combine, group_values, match_groups, tag
from plasticity_lightning.measures.curvature import Eigenpair, hessian_rank, sharpness
from plasticity_lightning.measures.gradients import DirectionState, grad_direction, grad_norm, grad_sparsity
from plasticity_lightning.measures.kernel import approximation_rank, kernel_quality, separation_rank
from plasticity_lightning.measures.metrics import (
    ActiveFraction,
    FeatureRank,
    MeanOf,
    Saturated,
    ShareOf,
    SpikeStatistics,
    UnitActivity,
)
from plasticity_lightning.measures.ntk import gradient_gram, ntk_rank, per_sample_gradients
from plasticity_lightning.measures.rank import (
    FeatureRanks,
    effective_rank,
    feature_ranks,
    pca_rank,
    singular_values,
    srank,
    stable_rank,
)
from plasticity_lightning.measures.registry import MEASURES, Measure, Memory, measure_named
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
from plasticity_lightning.measures.trainability import ProbeResult, probe_loss
from plasticity_lightning.measures.units import feature_matrix, samples_by_units
from plasticity_lightning.measures.weights import (
    distance_from_init,
    spectral_norm,
    update_ratio,
    weight_norm,
    weight_rms,
)

__all__ = [
    "MEASURES",
    "ActiveFraction",
    "DirectionState",
    "Eigenpair",
    "FeatureRank",
    "FeatureRanks",
    "MeanOf",
    "Measure",
    "Memory",
    "ProbeResult",
    "RateSummary",
    "Saturated",
    "ShareOf",
    "SpikeStatistics",
    "UnitActivity",
    "accumulated",
    "activation_norm",
    "approximation_rank",
    "branching_factor",
    "combine",
    "distance_from_init",
    "dormant",
    "dormant_scores",
    "effective_rank",
    "ever_active",
    "fano",
    "fau",
    "feature_matrix",
    "feature_ranks",
    "firing_rate",
    "grad_direction",
    "grad_norm",
    "grad_sparsity",
    "gradient_gram",
    "group_values",
    "hessian_rank",
    "isi_cv",
    "kernel_quality",
    "match_groups",
    "measure_named",
    "ntk_rank",
    "participation_ratio",
    "pca_rank",
    "per_sample_gradients",
    "probe_loss",
    "rate_cv",
    "rate_summary",
    "samples_by_units",
    "saturated",
    "separation_rank",
    "sharpness",
    "silent",
    "singular_values",
    "spectral_norm",
    "spike_counts",
    "srank",
    "stable_rank",
    "synchrony",
    "tag",
    "update_ratio",
    "weight_norm",
    "weight_rms",
    "zero_grad_units",
]
