"""How many units still do something? Fractions of active, dormant, saturated units of a layer, from one forward pass.

Pure functions of the output a [B, ...] of a nonlinearity; `units.py` says what a unit is. `unit_mask` leaves units
out, for instance those that a sparse mask has cut off from every input. All results are scalar float64 tensors on the
device of the activation, and nothing here synchronises the device. NaN activations count as inactive in the counting
measures and make the others NaN.

Sources: Ma et al. 2024 (fau), Lyle et al. 2023 (ever_active) and 2024 (activation_norm), Sokar et al. 2023 (dormant).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from plasticity_lightning.errors import nearest
from plasticity_lightning.measures.accumulate import accumulated
from plasticity_lightning.measures.nonlinearities import NONLINEARITIES
from plasticity_lightning.measures.units import check_unit_mask, feature_matrix, samples_by_units

__all__ = [
    "Saturating",
    "UnitSums",
    "activation_norm",
    "active_entries",
    "count_active",
    "dormant",
    "dormant_fraction",
    "dormant_scores",
    "ever_active",
    "ever_active_fraction",
    "fau",
    "saturated",
    "saturated_entries",
    "unit_sums",
    "zero_grad_units",
]

Saturating = Literal["tanh", "sigmoid", "relu6", "hardtanh", "hardsigmoid"]

_BLOCK = 2**17  # entries counted at a time: the block and its copy stay in the cache


def active_entries(activation: Tensor) -> Tensor:
    """Which entries are active, a > 0: 1 or 0 of the same shape; what `fau` and `ever_active` count.

    On a CPU a floating-point comparison is vectorised only if its result has the type of the numbers, so there it has;
    elsewhere it is boolean.
    """
    a = activation.detach()
    if a.device.type != "cpu" or not a.is_floating_point():
        return a > 0
    return torch.gt(a, 0, out=torch.empty_like(a))


def count_active(activation: Tensor) -> Tensor:
    """Number of active entries as an int64 scalar; any shape and memory layout, block by block in the cache."""
    in_memory = sorted(range(activation.ndim), key=activation.stride, reverse=True)
    flat = activation.detach().permute(in_memory).reshape(-1)
    if flat.device.type != "cpu" or not flat.is_floating_point():
        return torch.count_nonzero(active_entries(flat))
    cut = len(flat) % 128
    sums = [active_entries(flat[:cut]).long()]
    for block in flat[cut:].split(_BLOCK):
        active = active_entries(block)
        # single precision holds every count of a block, half precision those up to 128
        sums.append((active.view(128, -1).sum(0) if active.itemsize == 2 else active.sum()[None]).long())
    return torch.cat(sums).sum()


class UnitSums(NamedTuple):
    """What one layer's units did, in numbers that add up over calls, batches and processes.

    Attributes:
        active: int64 [U], samples at which each unit was active.
        abs_sum: float64 [U], sum of its absolute activations.
        samples: int64 scalar, their number.
    """

    active: Tensor
    abs_sum: Tensor
    samples: Tensor


def unit_sums(activation: Tensor, unit_dim: int = 1, spatial_units: bool = False) -> UnitSums:
    """Statistics of the units of an output [B, units, ...], see `samples_by_units`."""
    view = samples_by_units(activation, unit_dim, spatial_units)
    samples = torch.full((), view.shape[0], device=view.device)
    return UnitSums(active_entries(view).sum(0, dtype=torch.int64), view.abs().sum(0, dtype=torch.float64), samples)


def fau(*activations: Tensor) -> Tensor:
    """Fraction of active units: of all (sample, unit) pairs of the given layers, those with a > 0.

    Every spatial unit of a convolution counts once, and the value of a module is the sum of the active over the sum
    of the units of its layers, as in the reference code of Adaptive RR. For a spiking layer it is the mean of its
    spikes.

    Args:
        activations: outputs after the nonlinearity, any shapes, one or more layers.

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: if there is no entry at all.

    Misleads: only for ReLU-like functions (with GELU, SiLU or Tanh a sign means nothing: use `dormant`); a good
    sparse code lowers it; it depends on the architecture, so compare a network with itself.
    Cost: a comparison and a sum per entry.
    Source: Ma et al. 2024, code of Adaptive-Replay-Ratio.
    """
    total = sum(a.numel() for a in activations)
    if total == 0:
        raise ValueError("fau needs at least one non-empty activation")
    return torch.stack([count_active(a) for a in activations]).sum().double() / total


def ever_active_fraction(sums: UnitSums, unit_mask: Tensor | None = None) -> Tensor:
    """`ever_active` from statistics that were accumulated; NaN if there is no sample."""
    return torch.where(sums.samples > 0, _masked_fraction(sums.active > 0, unit_mask), torch.nan)


@accumulated(unit_sums, "sum", ever_active_fraction)
def ever_active(
    activation: Tensor, unit_dim: int = 1, spatial_units: bool = False, unit_mask: Tensor | None = None
) -> Tensor:
    """Fraction of units that are active (a > 0) for at least one sample of the batch: 1 - dead.

    Args:
        activation: [B, units, ...].
        unit_dim: dimension of units, see `samples_by_units`.
        spatial_units: count every position of every channel as a unit.
        unit_mask: bool [U], True for units that count; None counts all.

    Returns:
        Scalar in [0, 1]; NaN if `unit_mask` leaves no unit.

    Misleads: grows with the batch, so fix the probe batch; only for ReLU-like functions.
    Cost: one comparison per entry.
    Source: Lyle et al. 2023.
    """
    sums = unit_sums(activation, unit_dim, spatial_units)
    check_unit_mask(unit_mask, len(sums.active))
    return ever_active_fraction(sums, unit_mask)


def dormant_fraction(mean_abs: Tensor, tau: float = 0.025, unit_mask: Tensor | None = None) -> Tensor:
    """`dormant` from the mean absolute activations [U], for statistics that were accumulated over batches."""
    if tau < 0:
        raise ValueError(f"tau={tau} must be at least 0")
    if unit_mask is not None:
        mean_abs = torch.where(unit_mask, mean_abs, 0.0)
    fraction = _masked_fraction(dormant_scores(mean_abs, unit_mask) <= tau, unit_mask)
    return torch.where(mean_abs.isfinite().all(), fraction, torch.nan)


def _dormant_of(sums: UnitSums, tau: float = 0.025, unit_mask: Tensor | None = None) -> Tensor:
    return dormant_fraction(sums.abs_sum / sums.samples, tau, unit_mask)


@accumulated(unit_sums, "sum", _dormant_of)
def dormant(
    activation: Tensor,
    tau: float = 0.025,
    unit_dim: int = 1,
    spatial_units: bool = False,
    unit_mask: Tensor | None = None,
) -> Tensor:
    """Fraction of tau-dormant units: those whose score (see `dormant_scores`) is at most tau.

    Args:
        activation: [B, units, ...] after any nonlinearity; for convolutions a unit's mean runs over positions too.
        tau: threshold, at least 0; 0 counts units that never respond, 0.1 is common with ReDo.
        unit_dim: dimension of units.
        spatial_units: count every position of every channel as a unit.
        unit_mask: bool [U], True for units that count, in the layer's mean too.

    Returns:
        Scalar in [0, 1]: 1 for a layer of zeros; NaN if an activation is not finite.

    Misleads: relative to the layer's mean, so one exploding unit makes the others "dormant".
    Cost: one absolute value and sum per entry.
    Source: Sokar et al. 2023, definition 3.1.
    """
    sums = unit_sums(activation, unit_dim, spatial_units)
    check_unit_mask(unit_mask, len(sums.active))
    return _dormant_of(sums, tau, unit_mask)


def dormant_scores(mean_abs: Tensor, unit_mask: Tensor | None = None) -> Tensor:
    """Dormancy scores s_i = E|a_i| / mean_k E|a_k| of the units of one layer, [U] -> [U].

    They average 1 over the layer (over the units of `unit_mask`, bool [U]); in a layer of zeros every score is 0, so
    that all its units are dormant at any tau.
    """
    # no boolean indexing here: its size would be read from the device
    mean = mean_abs.mean() if unit_mask is None else torch.where(unit_mask, mean_abs, 0.0).sum() / unit_mask.sum()
    return torch.where(mean > 0, mean_abs / mean, 0.0)


def saturated(activation: Tensor, function: Saturating = "tanh") -> Tensor:
    """Fraction of (sample, unit) pairs at which a bounded nonlinearity is saturated.

        tanh: |a| > 0.99.   sigmoid: a > 0.99 or a < 0.01.   relu6: a >= 6.   hardtanh: |a| >= 1.   hardsigmoid: a <=
            0 or a >= 1.

    Both ends of a sigmoid count, since its derivative vanishes at both; the zero side of ReLU6 is what `ever_active`
    sees.

    Raises:
        ValueError: for another function, naming the nearest.

    Misleads: a saturated gate may be a decision well learned. Cost: a comparison or two per entry. Source: Glorot &
    Bengio 2010.
    """
    return saturated_entries(activation, function).double().mean()


def saturated_entries(activation: Tensor, function: Saturating = "tanh") -> Tensor:
    """Where `activation` is saturated, bool of the same shape."""
    bounded = {name: kind.saturated for name, kind in NONLINEARITIES.items() if kind.saturated is not None}
    if function not in bounded:
        raise ValueError(f"function={function!r} must be one of {sorted(bounded)}{nearest(str(function), bounded)}")
    return bounded[function](activation.detach())


def zero_grad_units(
    preactivation: Tensor,
    function: Callable[[Tensor], Tensor],
    threshold: float = 1e-3,
    unit_dim: int = 1,
    spatial_units: bool = False,
    unit_mask: Tensor | None = None,
) -> Tensor:
    """Fraction of units through which no gradient passes: |f'(z)| < threshold for every sample.

    Works for any elementwise nonlinearity; for ReLU it equals 1 - `ever_active`, for a spike function with a surrogate
    gradient it counts the neurons that the surrogate does not reach.

    Args:
        preactivation: z, the *input* of the nonlinearity, [B, units, ...].
        function: the elementwise nonlinearity f.
        threshold: on the derivative.
        unit_dim: dimension of units.
        spatial_units: count every position of every channel as a unit.
        unit_mask: bool [U], True for units that count.

    Returns:
        Scalar in [0, 1]; NaN if `unit_mask` leaves no unit.

    Misleads: grows smaller with the batch; says nothing of gradients that vanish elsewhere.
    Cost: one forward and backward of the nonlinearity. Source: defined here, unit-wise.
    """
    with torch.inference_mode(False), torch.enable_grad():
        z = preactivation.detach().clone().requires_grad_()
        (derivative,) = torch.autograd.grad(function(z).sum(), z)
    view = samples_by_units(derivative, unit_dim, spatial_units).abs()
    check_unit_mask(unit_mask, view.shape[1])
    return _masked_fraction((view < threshold).all(0), unit_mask)


def activation_norm(activation: Tensor, unit_dim: int = 1, pool: bool = True) -> Tensor:
    """Mean L2 norm of the rows of the feature matrix Phi [B, d]; scalar, at least 0.

    Misleads: drifts with the scale of weights without any loss of function; LayerNorm pins it.
    Cost: one square per entry. Source: Lyle et al. 2024.
    """
    return feature_matrix(activation, unit_dim, pool).double().norm(dim=1).mean()


def _masked_fraction(units: Tensor, unit_mask: Tensor | None) -> Tensor:
    if unit_mask is None:
        return units.double().mean()
    return (units & unit_mask).sum().double() / unit_mask.sum()
