"""How differently do samples pull on the parameters? The Gram matrix of per-sample gradients and its effective rank.

G_ij = <g_i, g_j>, g_i the gradient of the loss of sample i with respect to the parameters: the empirical neural
tangent kernel, weighted by the loss. Where all samples pull in one direction (rank 1) fitting one target moves all
the others. Per-sample gradients come from torch.func on an isolated copy in eval mode, so a probe changes nothing and
batch statistics do not couple the samples.

Source: Lyle et al. 2023 "Understanding plasticity in neural networks" (gradient covariance), Lyle et al. 2024 (its
rank).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from plasticity_lightning.measures.isolation import isolated_copy, undisturbed
from plasticity_lightning.measures.rank import effective_rank

__all__ = ["gradient_gram", "ntk_rank", "per_sample_gradients"]

Loss = Callable[[Tensor, Tensor], Tensor]


def per_sample_gradients(
    module: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    loss: Loss,
    parameters: Collection[str] | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Gradients [B, P] of the loss of each sample.

    Args:
        module: the network; used as a copy in eval mode without hooks.
        inputs: probe batch [B, ...], 32 to 128 samples.
        targets: [B, ...].
        loss: (output [1, ...], target [1, ...]) -> scalar.
        parameters: names (of `named_parameters`) to differentiate; None takes all that require a gradient.
        chunk_size: samples differentiated at once; None takes all.

    Raises:
        ValueError: if batch sizes differ, a name is unknown or nothing requires a gradient.

    Cost: B backward passes and B x P floats of memory: name a few layers for a large network.
    """
    if len(inputs) != len(targets):
        raise ValueError(f"inputs and targets must have one batch size; they have {len(inputs)} and {len(targets)}")
    with undisturbed(seed=0):
        probe = isolated_copy(module).eval()
        trainable = {n: p.detach() for n, p in probe.named_parameters() if p.requires_grad}
        names = list(trainable) if parameters is None else list(parameters)
        unknown = [n for n in names if n not in trainable]
        if unknown or not names:
            raise ValueError(f"parameters={unknown or names} must name some of the trainable {list(trainable)}")

        def sample_loss(chosen: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            output = torch.func.functional_call(probe, chosen, (x.unsqueeze(0),))
            return loss(output, y.unsqueeze(0))

        chosen = {n: trainable[n] for n in names}
        gradient = torch.func.vmap(torch.func.grad(sample_loss), in_dims=(None, 0, 0), chunk_size=chunk_size)
        # a clone leaves inference mode, whose tensors autograd refuses
        gradients = gradient(chosen, inputs.detach().clone(), targets.detach().clone())
        return torch.cat([gradients[n].flatten(1) for n in names], dim=1).detach()


def gradient_gram(gradients: Tensor, cosine: bool = False) -> Tensor:
    """Gram matrix G [B, B] of the per-sample gradients [B, P] in float64.

    With `cosine` of the gradients divided by their norms.
    A sample without gradient has zeros in its row and column in either form.
    """
    if gradients.ndim != 2 or not gradients.numel():
        raise ValueError(f"gradients must be a non-empty [B, P]; the shape is {tuple(gradients.shape)}")
    g = gradients.detach().double()
    if cosine:
        norm = g.norm(dim=1, keepdim=True)
        g = torch.where(norm > 0, g / norm, torch.zeros_like(g))
    return g @ g.T


def ntk_rank(
    module: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    loss: Loss,
    cosine: bool = False,
    parameters: Collection[str] | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Effective rank (exp of the entropy of the eigenvalues) of the gradient Gram matrix of a probe batch.

    Arguments as `per_sample_gradients`; `cosine` uses the normalised Gram matrix, which ignores that some samples
    have larger losses.

    Returns:
        Scalar float64 in [1, min(B, P)]; 0 if every gradient is zero.

    Misleads: without `cosine` a few samples of large loss dominate; falls as a classifier fits its data.
    Cost: B backward passes. Source: Lyle et al. 2023, 2024.
    """
    gram = gradient_gram(per_sample_gradients(module, inputs, targets, loss, parameters, chunk_size), cosine)
    return effective_rank(torch.linalg.eigvalsh(gram).clamp(min=0).flip(0))
