"""How many directions do the features span? Four ranks of a feature matrix, from its singular values s_1 >= s_2 >= ...

Every function takes the feature matrix Phi [B, d] (see `units.feature_matrix`) or its singular values [k], so that
one decomposition serves all. Decompositions run in float64; where d > B on the Gram matrix Phi Phi^T [B, B], which
resolves singular values down to about 1e-8 of the largest. All ranks are at most min(B, d): `feature_ranks` reports
that bound with them. Phi is not centred by default.

Sources: Kumar et al. 2021 (srank), Roy & Vetterli 2007 (effective_rank), Rudelson & Vershynin 2007 (stable_rank),
Yang et al. 2019 (pca_rank).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from plasticity_lightning.measures.accumulate import accumulated
from plasticity_lightning.measures.units import feature_matrix

__all__ = [
    "FeatureRanks",
    "effective_rank",
    "feature_ranks",
    "pca_rank",
    "singular_values",
    "srank",
    "stable_rank",
]


def singular_values(features: Tensor, center: bool = False) -> Tensor:
    """Singular values of Phi in descending order, float64 [min(B, d)].

    Args:
        features: Phi [B, d].
        center: subtract the mean of each column first.

    Returns:
        Non-negative values; all NaN if Phi has an entry that is not finite, so that a diverged network shows as NaN.

    Raises:
        ValueError: if Phi is not a non-empty matrix.

    Cost: O(B d min(B, d)).
    """
    if features.ndim != 2 or not features.numel():
        raise ValueError(f"features must be a non-empty [B, d]; the shape is {tuple(features.shape)}")
    phi = features.detach().double()
    n_samples, n_features = phi.shape
    if not bool(phi.isfinite().all()):
        return phi.new_full((min(n_samples, n_features),), torch.nan)
    if center:
        phi = phi - phi.mean(0)
    if n_features > n_samples:
        return torch.linalg.eigvalsh(phi @ phi.T).clamp(min=0).sqrt().flip(0)
    return torch.linalg.svdvals(phi)


def _features(activation: Tensor) -> tuple[Tensor]:
    # a clone: the layer may overwrite its output before the ranks are computed
    return (feature_matrix(activation).clone(),)


# one decomposition of the features of all calls and processes serves all four ranks
_of_spectrum = accumulated(_features, "cat", prepare=singular_values)


@_of_spectrum
def srank(features: Tensor, delta: float = 0.01, center: bool = False) -> Tensor:
    """Smallest k whose leading singular values sum to at least 1 - delta of the sum of all.

    Returns:
        Scalar float64 in 1..min(B, d); 0 for Phi = 0; NaN if Phi is not finite.

    Misleads: depends on the batch size; falls in healthy compression by supervised training.
    Source: Kumar et al. 2021, "Implicit under-parameterization", delta = 0.01.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta={delta} must lie in (0, 1)")
    return _leading(_spectrum(features, center), 1 - delta)


@_of_spectrum
def pca_rank(features: Tensor, share: float = 0.99, center: bool = False) -> Tensor:
    """Smallest k whose leading squared singular values reach `share` of their sum: variance explained where centred.

    Returns:
        Scalar float64 in 1..min(B, d); 0 for Phi = 0; NaN if Phi is not finite.

    Misleads: as `srank`; without centring a common mean of the features alone reaches the share.
    Source: Yang et al. 2019, "Harnessing structures for value-based planning and reinforcement learning".
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share} must lie in (0, 1)")
    return _leading(_spectrum(features, center) ** 2, share)


@_of_spectrum
def effective_rank(features: Tensor, center: bool = False) -> Tensor:
    """Exp of the entropy of the singular values: exp(-sum_i p_i ln p_i), p_i = s_i / sum s.

    Returns:
        Scalar float64 in [1, min(B, d)]; 0 for Phi = 0; NaN if Phi is not finite.

    Misleads: continuous, but many tiny singular values (noise) raise it.
    Source: Roy & Vetterli 2007, "The effective rank".
    """
    s = _spectrum(features, center)
    total = s.sum()
    p = s / total
    rank = torch.special.entr(p).sum().exp()
    return torch.where(total == 0, torch.zeros_like(rank), rank)


@_of_spectrum
def stable_rank(features: Tensor, center: bool = False) -> Tensor:
    """sum_i s_i^2 / s_1^2, the squared ratio of Frobenius and spectral norm.

    Returns:
        Scalar float64 in [1, min(B, d)]; 0 for Phi = 0; NaN if Phi is not finite.

    Misleads: one dominant direction (often the mean: then centre) hides every other.
    Source: Rudelson & Vershynin 2007.
    """
    s = _spectrum(features, center)
    power = (s**2).sum()
    return torch.where(power == 0, torch.zeros_like(power), power / s[0] ** 2)


class FeatureRanks(NamedTuple):
    """All ranks of one feature matrix, scalars float64, with the batch and the width that bound them."""

    srank: Tensor
    effective_rank: Tensor
    stable_rank: Tensor
    pca_rank: Tensor
    n_samples: int
    n_features: int

    @property
    def upper_bound(self) -> int:
        """min(B, d): no rank exceeds it."""
        return min(self.n_samples, self.n_features)


def feature_ranks(features: Tensor, delta: float = 0.01, share: float = 0.99, center: bool = False) -> FeatureRanks:
    """All four ranks of Phi [B, d] from one decomposition."""
    s = singular_values(features, center)
    return FeatureRanks(
        srank(s, delta), effective_rank(s), stable_rank(s), pca_rank(s, share), features.shape[0], features.shape[1]
    )


def _spectrum(features: Tensor, center: bool) -> Tensor:
    if features.ndim != 1:
        return singular_values(features, center)
    if center:
        raise ValueError("center=True needs the feature matrix; singular values were given")
    return features.double()


def _leading(weights: Tensor, share: float) -> Tensor:
    total = weights.sum()
    # a share of 0.99 of integers may sit on the boundary: allow the rounding of one float64 sum
    reached = weights.cumsum(0) >= share * total * (1 - 1e-12)
    k = (~reached).sum().double() + 1
    k = torch.where(total == 0, torch.zeros_like(k), k)
    return torch.where(total.isnan(), total, k)
