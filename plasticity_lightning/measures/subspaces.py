"""Angles between the subspaces of two sets of readouts, among weights and among signals, with what chance gives.

Two random directions among hundreds of neurons are nearly orthogonal, and two signals of a network whose activity
lives in a few dimensions are not: an angle says nothing without its null. `principal_angles` with a covariance is the
functional angle, between the readouts' outputs; `random_directions` draws the nulls.

Shapes: weights [R, N], covariance [N, N]. Source: Björck & Golub 1973 (principal angles).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["NullKind", "null_angles", "principal_angles", "random_directions"]

NullKind = Literal["isotropic", "covariance", "states"]


def principal_angles(a: Tensor, b: Tensor, covariance: Tensor | None = None) -> Tensor:
    """Principal angles between the spans of the rows of a and b, ascending, in degrees, float64 [min(p, q)].

    Args:
        a: weights [p, N].
        b: weights [q, N].
        covariance: of the states [N, N]; the angles are then those after C^(1/2): between the signals that the
            weights read out.

    Returns:
        Angles in [0, 90]; NaN where a set does not span as many dimensions as it has rows (a weight of 0, or a
        direction in which no state varies).

    Raises:
        ValueError: if shapes disagree.
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b must be [p, N] and [q, N], got {tuple(a.shape)} and {tuple(b.shape)}")
    if covariance is not None and covariance.shape != (a.shape[1], a.shape[1]):
        raise ValueError(f"covariance must be [{a.shape[1]}, {a.shape[1]}], got {tuple(covariance.shape)}")
    a, b = a.double(), b.double()
    weighted = (lambda rows: rows) if covariance is None else (lambda rows: rows @ covariance.double())
    half_a, half_b = _inverse_root(weighted(a) @ a.T), _inverse_root(weighted(b) @ b.T)
    if half_a is None or half_b is None:
        return torch.full((min(len(a), len(b)),), torch.nan, dtype=torch.float64)
    cosines = torch.linalg.svdvals(half_a @ (weighted(a) @ b.T) @ half_b)
    return torch.rad2deg(torch.arccos(cosines.clamp(max=1.0)))


def random_directions(
    kind: NullKind,
    count: int,
    n_neurons: int,
    generator: torch.Generator,
    covariance: Tensor | None = None,
    states: Tensor | None = None,
) -> Tensor:
    """Directions [count, N] float64 that know nothing of what was learned.

    Args:
        kind: "isotropic" (normal), "covariance" (normal with the states' covariance), "states" (visited states,
            chosen at random).
        count: at least 1.
        n_neurons: N.
        generator: of the draws.
        covariance: [N, N], for "covariance".
        states: [M, N], for "states".

    Raises:
        ValueError: for an unknown kind, or if what it needs is missing.
    """
    if kind == "states":
        if states is None or not len(states):
            raise ValueError("kind='states' needs states [M, N] with at least one row")
        return states[torch.randint(len(states), (count,), generator=generator)].double()
    normal = torch.randn(count, n_neurons, generator=generator, dtype=torch.float64)
    if kind == "isotropic":
        return normal
    if kind == "covariance":
        if covariance is None:
            raise ValueError("kind='covariance' needs a covariance [N, N]")
        values, vectors = torch.linalg.eigh(covariance.double())
        return (normal * values.clamp(min=0).sqrt()) @ vectors.T
    raise ValueError(f"kind={kind!r} must be 'isotropic', 'covariance' or 'states'")


def null_angles(a: Tensor, directions: Tensor, covariance: Tensor | None = None) -> Tensor:
    """Angle between the span of a [p, N] and each single direction [M, N], in degrees [M].

    `principal_angles` of one row, all at once.
    """
    a, directions = a.double(), directions.double()
    weighted_a, weighted_d = (
        (a, directions) if covariance is None else (x @ covariance.double() for x in (a, directions))
    )
    half = _inverse_root(weighted_a @ a.T)
    size = (weighted_d * directions).sum(1).clamp(min=0).sqrt()
    if half is None:
        return torch.full_like(size, torch.nan)
    cosine = (half @ weighted_a @ directions.T).norm(dim=0) / size
    return torch.where(size > 0, torch.rad2deg(torch.arccos(cosine.clamp(max=1.0))), torch.nan)


def _inverse_root(gram: Tensor) -> Tensor | None:
    """Inverse symmetric root of a Gram matrix; None if it is singular to rounding."""
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    if not bool(values.isfinite().all()) or float(values[0]) <= 1e-12 * max(float(values[-1]), 1e-300):
        return None
    return (vectors / values.sqrt()) @ vectors.T
