"""Are the gradients alive, and do they agree from step to step? Norm, exact zeros, direction.

Pure functions of the gradients of one or more parameters, after unscaling and accumulation and before clipping (a
clipped gradient has another norm, but the same zeros and direction). Parameters without a gradient (None) are
skipped. Nothing synchronises the device.

Sources: Dohare et al. 2024 and Abbas et al. 2023 (gradient norm and sparsity as symptoms); Lyle et al. 2023.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["DirectionState", "follow_direction", "grad_direction", "grad_norm", "grad_sparsity", "pause_direction"]


def grad_norm(gradients: Iterable[Tensor | None]) -> Tensor:
    """L2 norm of all given gradients together; scalar, at least 0.

    Raises:
        ValueError: if no gradient is given.

    Misleads: falls with the loss; scales with the loss and with the batch's noise. Cost: one square per entry.
    """
    return torch.linalg.vector_norm(torch.stack([_norm(g) for g in _present(gradients)]))


def grad_sparsity(gradients: Iterable[Tensor | None], masks: Sequence[Tensor | None] | None = None) -> Tensor:
    """Fraction of exact zeros among the entries of the gradients; scalar float64 in [0, 1].

    Args:
        gradients: one per parameter; None is skipped.
        masks: one bool mask (or None) per gradient, True where a weight lives; only those entries count.

    Raises:
        ValueError: if no gradient is given, or `masks` does not match the gradients.

    Misleads: embeddings and sparse inputs have zeros by nature; half precision makes zeros by underflow. Cost: one
    comparison per entry.
    """
    gradients = list(gradients)
    masks = [None] * len(gradients) if masks is None else list(masks)
    if len(masks) != len(gradients):
        raise ValueError(f"masks must hold one entry per gradient: {len(masks)} masks, {len(gradients)} gradients")
    zeros, totals = [], []
    for gradient, mask in zip(gradients, masks, strict=True):
        if gradient is None:
            continue
        zero = gradient.detach() == 0
        if mask is None:
            totals.append(torch.full((), zero.numel(), device=zero.device))
        else:
            if mask.shape != zero.shape or mask.dtype != torch.bool:
                raise ValueError(
                    f"a mask must be a bool tensor of its gradient's shape {tuple(zero.shape)}; "
                    f"it is {mask.dtype} {tuple(mask.shape)}"
                )
            zero = zero & mask
            totals.append(mask.sum())
        zeros.append(zero.sum())
    if not zeros:
        raise ValueError("no gradient is given: call after backward and before zero_grad")
    return torch.stack(zeros).sum().double() / torch.stack(totals).sum()


class DirectionState(NamedTuple):
    """Running comparison of successive gradients; pass it back to `grad_direction`, store it in a checkpoint.

    `previous` holds the last gradients, `cosine_sum` and `flip_sum` exponentially weighted sums, `weight` the sum of
    the weights.
    """

    previous: tuple[Tensor, ...]
    cosine_sum: Tensor
    flip_sum: Tensor
    weight: Tensor

    @property
    def cosine(self) -> Tensor:
        """Average cosine between successive gradients, in [-1, 1]; NaN before the second gradient."""
        return self.cosine_sum / self.weight

    @property
    def flip_rate(self) -> Tensor:
        """Average fraction of entries, non-zero in both gradients, whose sign flipped; in [0, 1]."""
        return self.flip_sum / self.weight


@torch.no_grad()
def grad_direction(
    gradients: Iterable[Tensor | None], state: DirectionState | None = None, decay: float = 0.9
) -> DirectionState:
    """Compare this gradient with the previous one and update the averages (bias-corrected exponential, rate 1 - decay).

        cosine = <g, g'> / (|g| |g'|), 0 if either is zero;   flip = share of sign(g_j) != sign(g'_j) where both are
        non-zero

    Args:
        gradients: of one step, the same parameters in the same order at every call.
        state: of the previous call; None starts.
        decay: of the average, in [0, 1); 0 keeps the last comparison only.

    Returns:
        The new state; read `.cosine` and `.flip_rate`. A pair with a gradient that is not finite (an overflow under
        fp16, a step that the scaler skips) leaves the averages as they are.

    Raises:
        ValueError: if `decay` is outside [0, 1), or the parameters changed between calls.

    Misleads: dominated by the noise of the batch at small batch sizes; momentum hides it. Cost: keeps a copy of the
    gradients.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay={decay} must lie in [0, 1)")
    current = tuple(_present(gradients))
    if state is None:
        zero = torch.zeros((), dtype=torch.float64, device=current[0].device)
        return DirectionState(tuple(g.clone() for g in current), zero, zero.clone(), zero.clone())
    shapes = [tuple(g.shape) for g in current], [tuple(g.shape) for g in state.previous]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the parameters changed between calls: shapes {shapes[1]}, now {shapes[0]}")

    pairs = list(zip(current, state.previous, strict=True))
    dot = torch.stack([(g.double() * p.double()).sum() for g, p in pairs]).sum()
    norms = torch.stack([torch.stack([_norm(g), _norm(p)]).double() for g, p in pairs]).norm(dim=0).prod()
    cosine = torch.where(norms == 0, torch.zeros_like(norms), (dot / norms).clamp(-1, 1))
    both = torch.stack([((g != 0) & (p != 0)).sum() for g, p in pairs]).sum()
    flipped = torch.stack([(g.sign() * p.sign() < 0).sum() for g, p in pairs]).sum()
    flip = flipped.double() / both.clamp(min=1)

    usable = norms.isfinite() & dot.isfinite()
    gain = torch.where(usable, 1 - decay, 0.0)
    keep = torch.where(usable, decay, 1.0)
    cosine, flip = (
        torch.where(usable, cosine, torch.zeros_like(cosine)),
        torch.where(usable, flip, torch.zeros_like(flip)),
    )
    return DirectionState(
        tuple(g.clone() for g in current),
        keep * state.cosine_sum + gain * cosine,
        keep * state.flip_sum + gain * flip,
        keep * state.weight + gain,
    )


def follow_direction(
    gradients: Sequence[Tensor], state: tuple[Any, ...] | None
) -> tuple[dict[str, Tensor] | None, DirectionState]:
    """Step of `grad_direction` that also says what there is to report.

    Args:
        gradients: of one step.
        state: of the previous call, or its entries as a checkpoint gives them back.

    Returns:
        (values, state): the averages `grad_direction` and `grad_sign_flips`, or None where this gradient had none to be
        compared with: at the first step, after `pause_direction`, and where the parameters with a gradient changed.
    """
    if state is None:
        return None, grad_direction(gradients)
    state = DirectionState(*state)
    if [g.shape for g in state.previous] != [g.shape for g in gradients]:
        return None, state._replace(previous=tuple(g.detach().clone() for g in gradients))
    state = grad_direction(gradients, state)
    return {"grad_direction": state.cosine, "grad_sign_flips": state.flip_rate}, state


def pause_direction(state: tuple[Any, ...]) -> DirectionState:
    """The averages without the gradient kept for comparison: the next one will not follow it."""
    return DirectionState(*state)._replace(previous=())


def _present(gradients: Iterable[Tensor | None]) -> list[Tensor]:
    present = [g.detach() for g in gradients if g is not None]
    if not present:
        raise ValueError("no gradient is given: call after backward and before zero_grad")
    return present


def _norm(gradient: Tensor) -> Tensor:
    return torch.linalg.vector_norm(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32))
