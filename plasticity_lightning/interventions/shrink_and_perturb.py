"""Shrink and perturb: move weights part of the way towards new random ones.

W <- alpha W + (1 - alpha) W_new keeps what was learnt in direction and loses it in size, with the new weights' noise on
top; alpha = 0 is a reset. The original form is W <- alpha W + noise. Sources: Ash & Adams 2020 (shrink, perturb by
noise); D'Oro et al. 2023 (interpolation with a new initialisation, alpha 0.8 for encoders).
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from plasticity_lightning.interventions.initialise import Initialiser, fresh_values

__all__ = ["mix_in_fresh", "shrink_and_add_noise"]


@torch.no_grad()
def mix_in_fresh(
    layer: nn.Module, seed: int, alpha: float, init: Initialiser | None = None, done: Collection[int] = ()
) -> list[Tensor]:
    """W <- alpha W + (1 - alpha) W_new for the trainable parameters of `layer`, in place.

    Running statistics of normalisation layers are mixed in the same way, counters of batches are set to the new ones
    only where alpha = 0. Frozen parameters are left alone.

    Args:
        layer: see `fresh_layer`.
        seed: of W_new.
        alpha: in [0, 1]: 0 resets, 1 changes nothing.
        init: see `fresh_layer`.
        done: ids of tensors to leave alone, e.g. tied ones that have had their turn.

    Returns:
        The tensors that were changed.

    Raises:
        ValueError: if `alpha` is out of range or the layer cannot be re-initialised.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} must be in [0, 1]")
    changed = []
    for tensor, new in fresh_values(layer, seed, init):
        if id(tensor) in done:
            continue
        if tensor.is_floating_point():
            # the end point is exact: 0 * inf would leave a diverged weight diverged
            tensor.copy_(new if alpha == 0 else alpha * tensor + (1 - alpha) * new)
        elif alpha == 0:
            tensor.copy_(new)
        else:
            continue
        changed.append(tensor)
    return changed


@torch.no_grad()
def shrink_and_add_noise(
    layer: nn.Module, seed: int, alpha: float, noise_std: float, done: Collection[int] = ()
) -> list[Tensor]:
    """W <- alpha W + noise, noise from N(0, noise_std^2), for the trainable parameters of `layer`, in place.

    The noise is drawn on the CPU, so that it is the same on every device. Buffers are left alone; `done` as above.

    Raises:
        ValueError: if `alpha` is not in [0, 1] or `noise_std` is negative.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} must be in [0, 1]")
    if noise_std < 0:
        raise ValueError(f"noise_std={noise_std} must not be negative")
    generator = torch.Generator().manual_seed(seed)
    changed: list[Tensor] = []
    for parameter in layer.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * noise_std
            if id(parameter) in done:
                continue
            parameter.mul_(alpha).add_(noise.to(parameter))
            changed.append(parameter)
    return changed
