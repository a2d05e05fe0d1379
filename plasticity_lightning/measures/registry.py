"""The list of measures: what each one needs, which way is better, what it costs and how layers combine.

A monitor chooses by it which hooks to install and how often to measure; `plasticity diagnose` and the docs print it.
The functions themselves are in the files of this package; an entry names the function and repeats nothing of its
definition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from plasticity_lightning.errors import nearest
from plasticity_lightning.measures import (
    activity,
    curvature,
    gradients,
    kernel,
    ntk,
    rank,
    spiking,
    trainability,
    weights,
)
from plasticity_lightning.measures.aggregate import Combination

__all__ = ["MEASURES", "Cost", "Direction", "Measure", "Needs", "measure_named"]

Needs = Literal["activations", "preactivations", "weights", "gradients", "probe", "spikes"]
Direction = Literal["higher", "lower", "neither"]
Cost = Literal["cheap", "moderate", "expensive"]


@dataclass(frozen=True)
class Measure:
    """What a monitor must know about a measure.

    Args:
        function: the pure function.
        needs: "activations" (a forward hook on the nonlinearity), "preactivations" (its input), "weights",
            "gradients" (of the step just taken), "probe" (a fixed batch and a copy of the network), "spikes" ([T, B,
            N] or counts).
        better: "higher" or "lower" means more plastic; "neither" is a symptom to be read with others.
        cost: "cheap": at every logging step; "moderate" (a decomposition or a copy): every few hundred steps;
            "expensive" (many backward passes): every epoch or less, off by default.
        combine: how the values of layers make that of a group, see `aggregate.combine`; None if the measure is of the
            whole network or liquid.
        description: one line.
    """

    function: Callable[..., Any]
    needs: Needs
    better: Direction
    cost: Cost
    combine: Combination | None
    description: str


MEASURES: dict[str, Measure] = {
    "fau": Measure(activity.fau, "activations", "higher", "cheap", "units", "active share of (sample, unit) pairs"),
    "ever_active": Measure(
        activity.ever_active, "activations", "higher", "cheap", "units", "units active for at least one sample"
    ),
    "dormant": Measure(
        activity.dormant, "activations", "lower", "cheap", "units", "units far below the layer's mean activity"
    ),
    "saturated": Measure(
        activity.saturated, "activations", "lower", "cheap", "units", "entries at the bound of the nonlinearity"
    ),
    "zero_grad_units": Measure(
        activity.zero_grad_units, "preactivations", "lower", "cheap", "units", "units that pass no gradient"
    ),
    "activation_norm": Measure(
        activity.activation_norm, "activations", "neither", "cheap", "mean", "mean norm of the feature vectors"
    ),
    "srank": Measure(rank.srank, "activations", "higher", "moderate", "mean", "singular values for 99 % of their sum"),
    "effective_rank": Measure(
        rank.effective_rank, "activations", "higher", "moderate", "mean", "exp entropy of the singular values"
    ),
    "stable_rank": Measure(
        rank.stable_rank, "activations", "higher", "moderate", "mean", "squared Frobenius over spectral norm"
    ),
    "pca_rank": Measure(rank.pca_rank, "activations", "higher", "moderate", "mean", "components for 99 % of the power"),
    "ntk_rank": Measure(
        ntk.ntk_rank, "probe", "higher", "expensive", None, "effective rank of the gradient Gram matrix"
    ),
    "weight_norm": Measure(weights.weight_norm, "weights", "neither", "cheap", "root_sum_square", "L2 norm of weights"),
    "weight_rms": Measure(weights.weight_rms, "weights", "neither", "cheap", "mean", "root mean square of weights"),
    "distance_from_init": Measure(
        weights.distance_from_init, "weights", "neither", "moderate", "mean", "relative distance from the first weights"
    ),
    "spectral_norm": Measure(
        weights.spectral_norm, "weights", "neither", "cheap", "max", "largest singular value of the weights"
    ),
    "update_ratio": Measure(
        weights.update_ratio, "weights", "neither", "moderate", "mean", "relative size of the last step"
    ),
    "grad_norm": Measure(
        gradients.grad_norm, "gradients", "neither", "cheap", "root_sum_square", "L2 norm of the gradients"
    ),
    "grad_sparsity": Measure(
        gradients.grad_sparsity, "gradients", "lower", "cheap", "units", "exact zeros among the gradients"
    ),
    "grad_direction": Measure(
        gradients.grad_direction, "gradients", "neither", "moderate", "mean", "cosine and sign flips between steps"
    ),
    "sharpness": Measure(curvature.sharpness, "probe", "lower", "expensive", None, "largest eigenvalue of the Hessian"),
    "hessian_rank": Measure(
        curvature.hessian_rank, "probe", "higher", "expensive", None, "eigenvalues above 1 % of the largest"
    ),
    "probe_loss": Measure(
        trainability.probe_loss,
        "probe",
        "lower",
        "expensive",
        None,
        "loss on random targets relative to a fresh network",
    ),
    "silent": Measure(spiking.silent, "spikes", "lower", "cheap", "units", "neurons without a spike"),
    "firing_rate": Measure(spiking.firing_rate, "spikes", "neither", "cheap", "units", "rates in Hz"),
    "rate_cv": Measure(spiking.rate_cv, "spikes", "neither", "cheap", "mean", "variation of rates across neurons"),
    "isi_cv": Measure(spiking.isi_cv, "spikes", "neither", "moderate", "mean", "irregularity of spike trains"),
    "fano": Measure(spiking.fano, "spikes", "neither", "cheap", "mean", "variance over mean of spike counts"),
    "synchrony": Measure(
        spiking.synchrony, "spikes", "neither", "cheap", "mean", "population variance over independence"
    ),
    "participation_ratio": Measure(
        spiking.participation_ratio, "spikes", "higher", "moderate", "mean", "dimensions over which rates vary"
    ),
    "branching_factor": Measure(
        spiking.branching_factor, "spikes", "neither", "moderate", None, "descendant over ancestor spikes"
    ),
    "separation_rank": Measure(
        kernel.separation_rank, "spikes", "higher", "expensive", None, "rank of the counts of different inputs"
    ),
    "approximation_rank": Measure(
        kernel.approximation_rank, "spikes", "lower", "expensive", None, "rank of the counts of noisy inputs"
    ),
}


def measure_named(name: str) -> Measure:
    """Entry `name` of `MEASURES`. Raises: ValueError: for an unknown name, with the nearest one."""
    if name not in MEASURES:
        raise ValueError(f"measure {name!r} is unknown; there are {sorted(MEASURES)}{nearest(name, MEASURES)}")
    return MEASURES[name]
