"""FLOPs of inference and training under masks, from the real uses of each weight (`acting.ActingWeights`).

A multiply-add counts as 2. A layer costs 2 * living weights * positions, positions being how often a sample uses each
weight: the output pixels of a convolution, the tokens of a Linear on sequences. Training costs 3 times the forward pass (forward,
gradient of the inputs, gradient of the weights). Biases, normalisation and activations are not counted, as usual.

Source: Evci et al. 2020, appendix H (sparse training with a dense gradient every few steps).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = [
    "FlopsLedger",
    "dense_gradient_step_flops",
    "inference_flops",
    "rigl_training_flops",
    "training_flops",
]


def inference_flops(living: Mapping[str, int], positions: Mapping[str, float]) -> float:
    """FLOPs of one sample's forward pass.

    Args:
        living: number of living weights by layer (all of them for a dense layer).
        positions: number of times each weight is used for one sample, by layer; layers that are missing count once.
    """
    return 2 * sum(n * positions.get(name, 1) for name, n in living.items())


def training_flops(forward: float) -> float:
    """FLOPs of one sample's training step: 3 * forward."""
    return 3 * forward


def dense_gradient_step_flops(sparse_forward: float, dense_forward: float) -> float:
    """A step that needs the gradient of all weights: 2 sparse passes and a dense gradient of the weights."""
    return 2 * sparse_forward + dense_forward


def rigl_training_flops(sparse_forward: float, dense_forward: float, every: int) -> float:
    """Mean FLOPs of a RigL step and sample: (3 f_s every + 2 f_s + f_d) / (every + 1) (Evci et al. 2020).

    Raises:
        ValueError: if `every` < 1.
    """
    if every < 1:
        raise ValueError(f"every={every} must be at least 1")
    dense_step = dense_gradient_step_flops(sparse_forward, dense_forward)
    return (training_flops(sparse_forward) * every + dense_step) / (every + 1)


class FlopsLedger:
    """Adds up the FLOPs of training, sparse and dense, as the masks change: GraNet's cost is the sum over its schedule.

    Args:
        sizes: number of weights by layer, dense layers included.
        positions: uses of each weight for one sample, by layer; layers that are missing count once.
    """

    def __init__(self, sizes: Mapping[str, int], positions: Mapping[str, float] | None = None) -> None:
        self.sizes = dict(sizes)
        self.positions = dict(positions or {})
        self.spent = 0
        self.dense = 0

    @property
    def observed(self) -> bool:
        """Whether any uses have been seen."""
        return any(self.positions.values())

    def observe(self, positions: Mapping[str, float]) -> None:
        """Take over the uses that a forward pass has shown of these layers."""
        self.positions |= {name: n for name, n in positions.items() if name in self.sizes}

    def forward(self, living: Mapping[str, int]) -> float:
        """FLOPs of one sample's forward pass; layers that `living` leaves out are dense."""
        return inference_flops({name: living.get(name, size) for name, size in self.sizes.items()}, self.positions)

    def inference(self, living: Mapping[str, int]) -> float:
        """Forward FLOPs relative to dense; layers that `living` leaves out are dense."""
        return self.forward(living) / self.forward({})

    def add_step(self, living: Mapping[str, int], dense_gradient: bool = False) -> None:
        """One training step per sample with so many living weights by layer."""
        sparse, dense = self.forward(living), self.forward({})
        self.spent += int(dense_gradient_step_flops(sparse, dense) if dense_gradient else training_flops(sparse))
        self.dense += int(training_flops(dense))

    @property
    def training(self) -> float:
        """FLOPs spent so far relative to dense training of the same length; NaN before the first step."""
        return self.spent / self.dense if self.dense else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Numbers only."""
        return {"spent": self.spent, "dense": self.dense, "positions": dict(self.positions)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.spent, self.dense, self.positions = state["spent"], state["dense"], dict(state["positions"])
