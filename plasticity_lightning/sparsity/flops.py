"""FLOPs of inference and training under masks, from the real shapes of a forward pass.

A multiply-add counts as 2. A layer costs 2 * living weights * positions, positions being the output pixels of a
convolution, the tokens of a Linear on sequences, 1 otherwise. Training costs 3 times the forward pass (forward,
gradient of the inputs, gradient of the weights). Biases, normalisation and activations are not counted, as usual.

Source: Evci et al. 2020, appendix H (sparse training with a dense gradient every few steps).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_lightning.sparsity.selection import plain_name

__all__ = [
    "WEIGHTED_LAYERS",
    "FlopsLedger",
    "dense_gradient_step_flops",
    "inference_flops",
    "layer_positions",
    "rigl_training_flops",
    "training_flops",
    "watch_positions",
]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
WEIGHTED_LAYERS: tuple[type[nn.Module], ...] = (nn.Linear, *_CONVOLUTIONS)


def inference_flops(living: Mapping[str, int], positions: Mapping[str, int]) -> int:
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
        positions: uses of each weight for one sample, by layer.
    """

    def __init__(self, sizes: Mapping[str, int], positions: Mapping[str, int] | None = None) -> None:
        self.sizes = dict(sizes)
        self.positions = dict(positions or {})
        self.spent = 0
        self.dense = 0

    def forward(self, living: Mapping[str, int]) -> int:
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


def layer_positions(layer: nn.Module, inputs: Tensor, output: Tensor) -> int:
    """How often one sample uses each weight of the layer.

    Args:
        layer: one of `WEIGHTED_LAYERS`.
        inputs: its input, [B, C, ...] or [B, ..., features]; without a batch dimension it is one sample.
        output: its output.

    Raises:
        TypeError: for another kind of layer.
    """
    if isinstance(layer, nn.Linear):
        return output.shape[1:-1].numel()
    if isinstance(layer, _CONVOLUTIONS):
        # a transposed convolution applies every weight at each input position
        used = inputs if isinstance(layer, _TRANSPOSED) else output
        return used.shape[-(layer.weight.ndim - 2) :].numel()
    raise TypeError(f"FLOPs of {type(layer).__name__} are not known; known are {[t.__name__ for t in WEIGHTED_LAYERS]}")


@contextmanager
def watch_positions(module: nn.Module, into: Sequence[dict[str, int]] = ()) -> Iterator[dict[str, int]]:
    """Within the block, the first call of every weighted layer below `module` is recorded.

    Args:
        module: searched with all its children.
        into: dictionaries that receive the positions, too.

    Yields:
        Positions by parameter name (`net.0.weight`, without the compiler's `_orig_mod.`); those of a parameter that
        several layers share add up. A layer that is called several times in one forward pass counts once.

    Code compiled by `torch.compile` does not report: hooks inside a graph would be traced.
    """
    positions: dict[str, int] = {}
    names = {id(parameter): plain_name(name) for name, parameter in module.named_parameters()}
    handles = []

    def watch(layer: nn.Module, name: str) -> None:
        seen = False

        def record(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            nonlocal seen
            if seen or torch.compiler.is_compiling() or not args:
                return
            seen = True
            for found in (positions, *into):
                found[name] = found.get(name, 0) + layer_positions(layer, args[0], output)

        handles.append(layer.register_forward_hook(record))

    for layer in module.modules():
        if isinstance(layer, WEIGHTED_LAYERS) and id(layer.weight) in names:
            watch(layer, names[id(layer.weight)])
    try:
        yield positions
    finally:
        for handle in handles:
            handle.remove()
