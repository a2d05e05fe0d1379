"""What a criterion looks at: one layer at an update of the masks. Criteria are functions of it, yours among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Criterion", "Layer"]


@dataclass(frozen=True)
class Layer:
    """One layer's weight and what is known about it; all tensors have the weight's shape and are not to be modified.

    Attributes:
        weight: [out, in, ...], without autograd; absent weights are 0.
        mask: bool, True where a weight lives.
        gradient: dense, also of absent weights; 0 if no batch has used the layer, None if the method does not read it.
        momentum: the optimiser's running mean of the gradient; None if the method does not read it or there is none.
        generator: for random choices, on the CPU, equal on all ranks.
    """

    weight: Tensor
    mask: Tensor
    gradient: Tensor | None = None
    momentum: Tensor | None = None
    generator: torch.Generator | None = None


# returns a score of the weight's shape: the highest stay (pruning, dropping) or come (growth)
Criterion = Callable[[Layer], Any]
