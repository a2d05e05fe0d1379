"""What is a unit and what is a sample: the reshaping that every measure of activity and rank starts from.

A unit is a neuron of a Linear layer or a channel of a convolution, whose spatial positions are then further samples;
with `spatial_units` every position of every channel is a unit of its own. The first dimension is always the batch.
Channels-last layouts (transformers [B, L, D], spiking layers [T, B, N]) name their unit dimension: `unit_dim=-1`.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_unit_mask", "feature_matrix", "samples_by_units"]


def samples_by_units(activation: Tensor, unit_dim: int = 1, spatial_units: bool = False) -> Tensor:
    """View of a layer's output as samples by units.

    Args:
        activation: [B, d], [B, C, *positions] or, with `unit_dim=-1`, [B, *positions, D].
        unit_dim: the dimension of units, not 0, the batch.
        spatial_units: count every position of every channel as a unit.

    Returns:
        [S, U]: S = B * positions and U = channels, or with `spatial_units` S = B and U = channels * positions.

    Raises:
        ValueError: if `activation` has fewer than two dimensions or `unit_dim` is the batch or not a dimension.
    """
    units_last = _units_last(activation, unit_dim)
    if spatial_units:
        return units_last.movedim(-1, 1).flatten(1)
    return units_last.flatten(0, -2)


def feature_matrix(activation: Tensor, unit_dim: int = 1, pool: bool = True) -> Tensor:
    """Feature matrix Phi [B, d] of a layer's output: positions averaged (`pool`) or flattened into features.

    Pooling is the default because flattened convolutional features have far more columns than a probe batch has rows.

    Raises:
        ValueError: as `samples_by_units`.
    """
    units_last = _units_last(activation, unit_dim)
    if not pool:
        return units_last.movedim(-1, 1).flatten(1)
    if units_last.ndim == 2:
        return units_last
    dtype = torch.promote_types(units_last.dtype, torch.float32)
    return units_last.flatten(1, -2).mean(1, dtype=dtype)


def check_unit_mask(unit_mask: Tensor | None, n_units: int) -> None:
    """Raise ValueError unless `unit_mask` is None or a bool tensor [n_units]; True marks a unit that counts."""
    if unit_mask is not None and (unit_mask.dtype != torch.bool or unit_mask.shape != (n_units,)):
        raise ValueError(
            f"unit_mask must be a bool tensor [{n_units}], True where a unit counts; "
            f"it is {unit_mask.dtype} {tuple(unit_mask.shape)}"
        )


def _units_last(activation: Tensor, unit_dim: int) -> Tensor:
    if activation.ndim < 2 or not activation.numel():
        raise ValueError(f"activation must be non-empty, [B, units, ...]; its shape is {tuple(activation.shape)}")
    if not -activation.ndim < unit_dim < activation.ndim or unit_dim == 0:
        allowed = f"1..{activation.ndim - 1} or -1..{1 - activation.ndim}"
        raise ValueError(f"unit_dim={unit_dim} must be {allowed} for shape {tuple(activation.shape)}: 0 is the batch")
    return activation.detach().movedim(unit_dim, -1)
