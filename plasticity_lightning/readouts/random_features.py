"""Control for any liquid: random sparse-sign ReLU features of the input, without spikes or plasticity.

Feature i is ReLU of a sum of `fan_in` randomly chosen pixels with random signs. A liquid of N neurons that does not
beat N of these with the same readout has not shown that its dynamics help.

Source: control of the NALSM replication; random features as in Rahimi & Recht 2007.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["random_features", "random_projection"]


def random_projection(
    n_pixels: int, n_features: int, generator: torch.Generator, fan_in: int = 32, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Sparse signed sums of pixels as a matrix.

    Args:
        n_pixels: C, at least 1.
        n_features: N, at least 1.
        generator: source of every random choice; on the CPU.
        fan_in: distinct pixels per feature, in [1, C].
        dtype: of the result.

    Returns:
        Matrix [N, C]; each row has `fan_in` entries of +1 or -1, the rest is 0.

    Raises:
        ValueError: if n_features or fan_in is out of range.
    """
    if n_features < 1:
        raise ValueError(f"n_features must be at least 1, got {n_features}.")
    if not 1 <= fan_in <= n_pixels:
        raise ValueError(f"fan_in must lie in [1, {n_pixels}] (the pixels), got {fan_in}.")
    sources = torch.rand(n_features, n_pixels, generator=generator).topk(fan_in, dim=1).indices
    signs = torch.randint(0, 2, (n_features, fan_in), generator=generator).to(dtype) * 2 - 1
    return torch.zeros(n_features, n_pixels, dtype=dtype).scatter_(1, sources, signs)


def random_features(flat_images: Tensor, projection: Tensor) -> Tensor:
    """ReLU of random sparse signed sums of pixels.

    Args:
        flat_images: [M, C], float.
        projection: [N, C] of `random_projection`; the same one for training, validation and test.

    Returns:
        Features [M, N], at least 0, of the images' type and device. Scaling an image scales its features.

    Raises:
        ValueError: for images that are not floating point [M, C].
    """
    if flat_images.dim() != 2 or not flat_images.is_floating_point():
        raise ValueError(f"flat_images must be float [M, C], got {flat_images.dtype} {tuple(flat_images.shape)}.")
    if flat_images.shape[1] != projection.shape[1]:
        raise ValueError(f"images have {flat_images.shape[1]} values, the projection takes {projection.shape[1]}.")
    return torch.relu(flat_images @ projection.to(flat_images).T)
