"""Plasticity injection: a frozen head plus a new one that starts at zero difference.

The prediction becomes h_theta(x) + h_theta1(x) - h_theta2(x): theta is frozen, theta1 = theta2 are new random weights,
theta1 learns and theta2 is frozen. At the moment of injection the output does not change; the number of trainable
parameters does not either. Source: Nikishin et al. 2023, "Deep reinforcement learning with plasticity injection", eq. 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from plasticity_lightning.interventions.initialise import Initialiser, fresh_state
from plasticity_lightning.measures.isolation import isolated_copy

__all__ = ["InjectableHead"]


class InjectableHead(nn.Module):
    """A head with a place for the new one, so that names, optimiser groups and checkpoints are the same before and after.

    Before the injection it computes the old head alone. Whether it is injected is part of the state dict.

    Args:
        head: h, from tensors to one tensor; becomes `original`.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.original = head
        self.learner = isolated_copy(head)
        self.reference = isolated_copy(head).requires_grad_(False)
        self.injected = False
        self._trainable = [p.requires_grad for p in head.parameters()]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """h_theta(x), and after the injection + h_theta1(x) - h_theta2(x)."""
        output: Tensor = self.original(*args, **kwargs)
        if not self.injected:
            return output
        return output + (self.learner(*args, **kwargs) - self.reference(*args, **kwargs))

    @torch.no_grad()
    def inject(self, seed: int, init: Initialiser | None = None) -> list[Tensor]:
        """Freeze the old head and put new weights beside it.

        Args:
            seed: of the new weights.
            init: see `fresh_layer`.

        Returns:
            The tensors that were set.

        Raises:
            RuntimeError: if it has been injected before.
            ValueError: if the head cannot be re-initialised.
        """
        if self.injected:
            raise RuntimeError("plasticity has been injected into this head before; it can be done once")
        values = fresh_state(self.original, seed, init)
        for twin in (self.learner, self.reference):
            for name, tensor in (*twin.named_parameters(), *twin.named_buffers()):
                if name in values:
                    tensor.copy_(values[name])
        self._freeze()
        return [*self.learner.state_dict().values(), *self.reference.state_dict().values()]

    def get_extra_state(self) -> dict[str, bool]:
        """Whether plasticity has been injected."""
        return {"injected": self.injected}

    def set_extra_state(self, state: dict[str, bool]) -> None:
        """Take it from a checkpoint, and freeze or thaw the old head accordingly."""
        if state["injected"]:
            self._freeze()
        else:
            self.injected = False
            for parameter, trainable in zip(self.original.parameters(), self._trainable, strict=True):
                parameter.requires_grad_(trainable)

    def _freeze(self) -> None:
        self.injected = True
        for parameter in self.original.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None  # an optimiser moves whatever has a gradient
