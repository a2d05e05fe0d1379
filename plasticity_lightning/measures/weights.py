"""How large are the weights, how far have they gone, how fast do they move? Norms of one weight tensor.

Pure functions of a weight [out, in, ...] (or a bias [out]) and, where needed, its earlier value. `mask` (bool, True
where a weight may live) restricts a measure to the living weights of a sparse layer. Results are scalar tensors on
the weight's device, float32 or, for float64 weights, float64; combine layers with `aggregate.combine`.

Sources: Lyle et al. 2023 and 2024 (weight norm and plasticity), Nikishin et al. 2022; Miyato et al. 2018 (power
iteration with warm start).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["distance_from_init", "spectral_norm", "update_ratio", "weight_norm", "weight_rms"]


def weight_norm(weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """L2 norm of the (living) weights.

    Misleads: rises in healthy training too; grows with the size of the layer, see `weight_rms`. Cost: one square per
    weight.
    """
    return _norm(_living(weight, mask))


def weight_rms(weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """Root mean square of the (living) weights: comparable between layers and between sparsities; NaN if none lives."""
    norm = _norm(_living(weight, mask))
    return norm / (weight.numel() ** 0.5 if mask is None else mask.sum().sqrt())


def distance_from_init(weight: Tensor, initial: Tensor) -> Tensor:
    """Relative distance L2(W - W_0) / L2(W_0).

    Args:
        weight: W.
        initial: W_0, may live on the CPU: it is copied to the device of `weight` for the moment of the measure.

    Returns:
        Scalar, at least 0: 0 if nothing moved (also where W_0 = 0), inf if W_0 = 0 and W is not.

    Misleads: a rotation that keeps the function (permuted units) counts as distance. Cost: one copy of W_0.
    Source: Kumar et al. 2023 (L2-init); Lyle et al. 2024.
    """
    return _relative(weight, initial)


def update_ratio(before: Tensor, after: Tensor) -> Tensor:
    """Relative size of a step, L2(W_after - W_before) / L2(W_before): `distance_from_init` for one optimiser step.

    Misleads: about 1e-3 is a rule of thumb, not a law; weight decay alone makes it non-zero.
    """
    return _relative(after, before)


@torch.no_grad()
def spectral_norm(
    weight: Tensor, vector: Tensor | None = None, steps: int = 2, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Largest singular value of W [out, in * kernel], by power iteration with a warm start.

    Args:
        weight: [out, in, ...]; a convolution's kernel is flattened, which bounds the norm of the convolution only up
            to a factor (the square root of the kernel's positions).
        vector: right singular vector [in * kernel] of the previous call; None starts at random.
        steps: power steps of this call, at least 1; 2 suffice where the weight changes slowly between calls.
        generator: of the random start, on the CPU; None uses a fresh generator of seed 0.

    Returns:
        (sigma, vector): sigma is a lower bound that converges from below; pass `vector` to the next call.

    Raises:
        ValueError: if `weight` has fewer than two dimensions, `vector` the wrong shape, or `steps` < 1.

    Misleads: the first calls underestimate, the more so the closer the second singular value. Cost: 2 matrix-vector
    products a step.
    Source: Miyato et al. 2018.
    """
    if weight.ndim < 2:
        raise ValueError(f"weight must be [out, in, ...]; its shape is {tuple(weight.shape)}")
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    matrix = weight.detach().flatten(1)
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    if vector is None:
        generator = generator or torch.Generator().manual_seed(0)
        vector = torch.randn(matrix.shape[1], generator=generator, dtype=matrix.dtype).to(matrix.device)
    elif vector.shape != (matrix.shape[1],):
        raise ValueError(f"vector must be [{matrix.shape[1]}] for this weight; its shape is {tuple(vector.shape)}")
    right = vector / vector.norm().clamp(min=torch.finfo(matrix.dtype).tiny)
    for _ in range(steps):
        image = matrix.T @ (matrix @ right)
        norm = image.norm()
        # a zero image (W = 0, or the start orthogonal to every row) keeps the start, never 0/0
        right = torch.where(norm > 0, image / norm.clamp(min=torch.finfo(matrix.dtype).tiny), right)
    return (matrix @ right).norm(), right


def _living(weight: Tensor, mask: Tensor | None) -> Tensor:
    weight = weight.detach()
    if mask is None:
        return weight
    if mask.shape != weight.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be a bool tensor of the weight's shape {tuple(weight.shape)}; "
            f"it is {mask.dtype} {tuple(mask.shape)}"
        )
    return torch.where(mask, weight, 0.0)  # no boolean indexing: its size would be read from the device


def _norm(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32))


def _relative(values: Tensor, reference: Tensor) -> Tensor:
    if values.shape != reference.shape:
        raise ValueError(f"shapes must agree; they are {tuple(values.shape)} and {tuple(reference.shape)}")
    reference = reference.detach().to(values.device)
    moved = _norm(values.detach() - reference)
    return torch.where(moved == 0, torch.zeros_like(moved), moved / _norm(reference))
