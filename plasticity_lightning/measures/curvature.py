"""How curved is the loss? The top eigenvalue of the Hessian and how many are near it, by Hessian-vector products.

Both measures run on an isolated copy in eval mode and differentiate the loss of one probe batch twice; the graph is
kept, so an iteration costs one backward pass through it. `hessian_operator` gives the product for any loss and
parameters.

Sources: Lyle et al. 2023 (sharpness and plasticity); Cohen et al. 2021 (edge of stability); Ghorbani et al. 2019
(stochastic Lanczos quadrature of Hessians).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from plasticity_lightning.measures.isolation import isolated_copy, undisturbed

__all__ = ["Eigenpair", "hessian_operator", "hessian_rank", "lanczos", "sharpness", "top_eigenpair"]

Operator = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


class Eigenpair(NamedTuple):
    """Eigenvalue, unit eigenvector [P] and the residual |H v - value v| / |value| (0 for an exact pair)."""

    value: Tensor
    vector: Tensor
    residual: Tensor


def sharpness(
    module: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss, iterations: int = 20, seed: int = 0
) -> Eigenpair:
    """Largest eigenvalue of the Hessian of the mean loss over a probe batch.

    Args:
        module: the network; used as a copy in eval mode without hooks.
        inputs: probe batch [B, ...].
        targets: [B, ...].
        loss: (output, targets) -> scalar.
        iterations: power steps, at least 1; 10 to 20 are usual. If the eigenvalue of largest size turns out to be
            negative, as many again on the Hessian shifted by it, which makes the largest eigenvalue dominate.
        seed: of the start vector.

    Returns:
        The pair; distrust values with a residual above a few per cent.

    Raises:
        ValueError: if no parameter requires a gradient or `iterations` < 1.

    Misleads: scales with the parametrisation (a rescaled ReLU net computes the same with another sharpness); batch
    statistics are frozen.
    Cost: one forward, 1 + iterations backward passes. Source: Lyle et al. 2023; Cohen et al. 2021.
    """
    with undisturbed(seed):
        operator, size, like = _probe_operator(module, inputs, targets, loss)
        return top_eigenpair(operator, size, iterations, torch.Generator().manual_seed(seed), like)


def hessian_rank(
    module: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    loss: Loss,
    threshold: float = 0.01,
    steps: int = 40,
    probes: int = 8,
    seed: int = 0,
) -> Tensor:
    """Estimated number of Hessian eigenvalues above `threshold` times the largest, by stochastic Lanczos quadrature.

    Each random vector of +-1 gives Ritz values and weights; P times the weight above the threshold is an estimate
    whose mean over vectors is unbiased up to the resolution of `steps` Lanczos steps.

    Args:
        module: as in `sharpness`, with `inputs`, `targets` and `loss`.
        inputs: probe batch [B, ...].
        targets: [B, ...].
        loss: (output, targets) -> scalar.
        threshold: relative to the largest Ritz value, in (0, 1).
        steps: of Lanczos, at least 1; at most P are made.
        probes: random vectors, at least 1.
        seed: of the vectors.

    Returns:
        Scalar float64 in [0, P]; 0 if no eigenvalue is positive.

    Misleads: a noisy estimate (repeat with another seed); depends on the batch. Cost: steps * probes backward passes
    and steps x P floats: expensive, off by default. Source: Ghorbani et al. 2019.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold} must lie in (0, 1)")
    if probes < 1:
        raise ValueError(f"probes={probes} must be at least 1")
    with undisturbed(seed):
        operator, size, like = _probe_operator(module, inputs, targets, loss)
        generator = torch.Generator().manual_seed(seed)
        values, shares = [], []
        for _ in range(probes):
            start = torch.randint(0, 2, (size,), generator=generator).to(like) * 2 - 1
            ritz, share = lanczos(operator, start, steps)
            values.append(ritz)
            shares.append(share)
    ritz, share = torch.cat(values), torch.cat(shares)
    counted = (ritz > threshold * ritz.max()) & (ritz > 0)
    return size * (share * counted).sum() / probes


def hessian_operator(loss: Tensor, parameters: Sequence[Tensor]) -> Operator:
    """Map v [P] -> H v [P], H the Hessian of the scalar `loss` in the parameters, flattened one after the other.

    The graph of `loss` is kept until the operator is dropped; no `.grad` is written.
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    flat = torch.cat([g.reshape(-1) for g in gradients])
    if not flat.requires_grad:  # a loss linear in the parameters
        return torch.zeros_like

    def product(vector: Tensor) -> Tensor:
        products = torch.autograd.grad(flat, parameters, vector, retain_graph=True, materialize_grads=True)
        return torch.cat([p.reshape(-1) for p in products])

    return product


def top_eigenpair(
    operator: Operator, size: int, iterations: int, generator: torch.Generator, like: Tensor | None = None
) -> Eigenpair:
    """Largest (most positive) eigenvalue of a symmetric operator on [size], by power iteration.

    Where the eigenvalue of largest size is negative, the operator is shifted by it and iterated again.
    `like` gives dtype and device of the vectors (default: float32 on the CPU).
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations} must be at least 1")
    like = torch.zeros(()) if like is None else like
    start = torch.randn(size, generator=generator).to(like)
    value, vector = _power(operator, start, iterations)
    if value < 0:
        shift = value
        _, vector = _power(lambda v: operator(v) - shift * v, start, iterations)
        value = vector @ operator(vector)
    residual = (operator(vector) - value * vector).norm() / value.abs()
    return Eigenpair(value, vector, torch.where(value == 0, (operator(vector)).norm(), residual))


def lanczos(operator: Operator, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Ritz values and quadrature weights of a symmetric operator from one start vector, with full reorthogonalisation.

    Args:
        operator: v [P] -> H v [P].
        start: [P], not zero.
        steps: at least 1; stops early at an invariant subspace.

    Returns:
        (values [m] ascending, weights [m] summing to 1), float64, m <= min(steps, P): weights are the squared first
        components of the eigenvectors of the tridiagonal matrix.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    basis = [start / start.norm()]
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    eps = torch.finfo(start.dtype).eps
    for _ in range(min(steps, len(start))):
        image = operator(basis[-1])
        alphas.append(image @ basis[-1])
        scale = image.norm()
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            span = torch.stack(basis)
            image = image - span.T @ (span @ image)
        beta = image.norm()
        if beta <= 100 * eps * scale:
            break
        betas.append(beta)
        basis.append(image / beta)
    size = len(alphas)
    diagonal = torch.diag(torch.stack(alphas).double())
    if size > 1:
        off = torch.stack(betas[: size - 1]).double()
        diagonal = diagonal + torch.diag(off, 1) + torch.diag(off, -1)
    values, vectors = torch.linalg.eigh(diagonal)
    return values, vectors[0] ** 2


def _power(operator: Operator, start: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    vector = start / start.norm()
    for _ in range(iterations):
        image = operator(vector)
        norm = image.norm()
        if norm == 0:  # the zero operator: every vector is an eigenvector of 0
            break
        vector = image / norm
    return vector @ operator(vector), vector


def _probe_operator(module: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss) -> tuple[Operator, int, Tensor]:
    probe = isolated_copy(module).eval()
    parameters = [p for p in probe.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"no parameter of {type(module).__name__} requires a gradient: there is no Hessian")
    # a clone leaves inference mode, whose tensors autograd refuses
    value = loss(probe(inputs.detach().clone()), targets.detach().clone())
    return hessian_operator(value, parameters), sum(p.numel() for p in parameters), parameters[0].detach()
