"""Control for any liquid: random sparse-sign ReLU features of the input, without spikes or plasticity.

Feature i is ReLU of a sum of `fan_in` randomly chosen pixels with random signs. A liquid of N neurons that does not
beat N of these with the same readout has not shown that its dynamics help.

Source: control of the NALSM replication; random features as in Rahimi & Recht 2007.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["random_features"]


def random_features(flat_images: Tensor, n_features: int, generator: torch.Generator, fan_in: int = 32) -> Tensor:
    """ReLU of random sparse signed sums of pixels.

    The generator is all that decides the projection: give generators of one seed for train, validation and test, or
    all items at once.

    Args:
        flat_images: [M, C], float.
        n_features: N, at least 1.
        generator: source of the sparse projection; on the CPU.
        fan_in: distinct pixels per feature, in [1, C].

    Returns:
        Features [M, N], at least 0, of the images' type and device.

    Raises:
        ValueError: for images that are not floating point [M, C], or n_features or fan_in out of range.
    """
    if flat_images.dim() != 2 or not flat_images.is_floating_point():
        raise ValueError(f"flat_images must be float [M, C], got {flat_images.dtype} {tuple(flat_images.shape)}.")
    n_pixels = flat_images.shape[1]
    if n_features < 1:
        raise ValueError(f"n_features must be at least 1, got {n_features}.")
    if not 1 <= fan_in <= n_pixels:
        raise ValueError(f"fan_in must lie in [1, {n_pixels}] (the pixels), got {fan_in}.")
    sources = torch.rand(n_features, n_pixels, generator=generator).topk(fan_in, dim=1).indices
    signs = torch.randint(0, 2, (n_features, fan_in), generator=generator).to(flat_images.dtype) * 2 - 1
    projection = torch.zeros(n_features, n_pixels, dtype=flat_images.dtype).scatter_(1, sources, signs)
    return torch.relu(flat_images @ projection.to(flat_images.device).T)
