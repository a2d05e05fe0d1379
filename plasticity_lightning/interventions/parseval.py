"""Parseval regularisation: keep the rows of a weight matrix orthogonal and of one length.

The penalty strength * F(W W^T - s I)^2, F the Frobenius norm, has the gradient 4 * strength * (W W^T - s I) W. For a
layer with more outputs than inputs, where rows cannot be orthogonal, columns are used: W^T W. A convolution's kernel is
flattened to [out, in * positions]. Source: Chung et al. 2024, "Parseval regularization for continual reinforcement
learning".
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["add_parseval_gradient", "parseval_penalty"]


def parseval_penalty(weight: Tensor, scale: float = 1.0) -> Tensor:
    """F(G - s I)^2, scalar, with G the smaller Gram matrix of the weight [out, in, ...] and s = `scale`.

    Raises:
        ValueError: if the weight has fewer than two dimensions.
    """
    excess = _excess(_lying(weight), scale)
    return excess.square().sum()


@torch.no_grad()
def add_parseval_gradient(weight: Tensor, strength: float, scale: float = 1.0) -> None:
    """Add the gradient of strength * `parseval_penalty` to `weight.grad`, in place.

    Cost: two products of the flattened matrix with its Gram matrix.
    """
    matrix = _lying(weight)
    pull = (_excess(matrix, scale) @ matrix).mul_(4 * strength)
    pull = (pull if len(weight) == len(matrix) else pull.T).reshape(weight.shape)
    if weight.grad is None:
        weight.grad = pull
    else:
        weight.grad.add_(pull)


def _lying(weight: Tensor) -> Tensor:
    """The flattened matrix, transposed if it has more rows than columns."""
    if weight.ndim < 2:
        raise ValueError(f"weight must be [out, in, ...]; its shape is {tuple(weight.shape)}")
    matrix = weight.flatten(1)
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def _excess(matrix: Tensor, scale: float) -> Tensor:
    gram = matrix @ matrix.T
    return gram - scale * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
