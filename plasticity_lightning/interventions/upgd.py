"""UPGD: gradient descent with noise, both held back from weights that are useful.

Utility-based perturbed gradient descent, first order, global scaling: with g the gradient, U <- beta U + (1 - beta)(-g w)
estimates by how much the loss would rise if w were removed; U^ = U / (1 - beta^t); the scaled utility
u = sigmoid(U^ / max U^) over all weights gates the step, w <- (1 - lr wd) w - lr (g + noise)(1 - u).
Source: Elsayed & Mahmood 2024 (ICLR) and their code, github.com/mohmdelsayed/upgd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["UPGD"]


class UPGD(Optimizer):
    """Utility-based perturbed gradient descent, for one data stream at a time.

    A weight without utility has u = sigmoid(0) = 1/2 and so moves with half of `lr`; the authors' minimal version
    (the README of their repository) doubles the step, here that is `lr` twice as large.

    Args:
        params: parameters or groups.
        lr: step size, at least 0.
        weight_decay: decoupled decay, at least 0.
        beta_utility: decay of the utility's trace, in [0, 1).
        sigma: standard deviation of the noise that is added to the gradient, at least 0.
        uncorrected_maximum: divide by the maximum of U instead of U^, as the authors' code does: for about
            1 / (1 - beta) steps from the start, the gate is then nearly open or shut for every weight.
        seed: of the noise. It is a function of (seed, number of the step), so that a resumed run goes on with the same
            noise, and all ranks of a distributed run draw the same on the same kind of device.

    State per parameter: `step`, `avg_utility` (U).

    Raises:
        ValueError: if a value is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        beta_utility: float = 0.999,
        sigma: float = 1e-3,
        uncorrected_maximum: bool = False,
        seed: int = 0,
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay), ("sigma", sigma), ("seed", seed)):
            if value < 0:
                raise ValueError(f"{name}={value} must not be negative")
        if not 0 <= beta_utility < 1:
            raise ValueError(f"beta_utility={beta_utility} must be in [0, 1)")
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "beta_utility": beta_utility,
            "sigma": sigma,
            "uncorrected_maximum": uncorrected_maximum,
            "seed": seed,
            "steps": 0,  # in the groups, since those are what a checkpoint holds
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; nothing is read from the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        maxima = [
            self._update_utility(group, p) for group in self.param_groups for p in group["params"] if _has_grad(p)
        ]
        if maxima:
            device = maxima[0].device
            maximum = torch.stack([m.to(device) for m in maxima]).max()
            for number, group in enumerate(self.param_groups):
                self._descend(group, maximum, number)
        for group in self.param_groups:
            group["steps"] += 1
        return loss

    def _update_utility(self, group: dict[str, Any], parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["avg_utility"] = torch.zeros_like(parameter)
        state["step"] += 1
        assert parameter.grad is not None
        beta = group["beta_utility"]
        utility: Tensor = state["avg_utility"]
        utility.mul_(beta).addcmul_(parameter, parameter.grad, value=-(1 - beta))
        correction = 1.0 if group["uncorrected_maximum"] else 1 - beta ** state["step"]
        return utility.max().float() / correction

    def _descend(self, group: dict[str, Any], maximum: Tensor, number: int) -> None:
        generators: dict[torch.device, torch.Generator] = {}
        for parameter in filter(_has_grad, group["params"]):
            device = parameter.device
            if device not in generators:
                # a seed of its own for every group and step; the odd factors keep them apart
                seed = (group["seed"] * 0x9E3779B97F4A7C15 + group["steps"] * 0xBF58476D1CE4E5B9 + number) % (1 << 63)
                generators[device] = torch.Generator(device).manual_seed(seed)
            noise = torch.empty_like(parameter).normal_(generator=generators[device])
            state = self.state[parameter]
            corrected = state["avg_utility"] / (1 - group["beta_utility"] ** state["step"])
            # if no weight has a positive utility none is protected, and a utility of 0 stays neutral
            largest = maximum.to(corrected).clamp(min=torch.finfo(corrected.dtype).tiny)
            open_gate = 1 - torch.sigmoid(corrected / largest)
            assert parameter.grad is not None
            move = (parameter.grad + group["sigma"] * noise) * open_gate
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(move, alpha=-group["lr"])


def _has_grad(parameter: Tensor) -> bool:
    return parameter.grad is not None
