"""What every readout solver does: check its data, step, keep the best step, save and resume.

A solver fits weight [K, N] and bias [K] of a linear readout on fixed features and labels. It holds its data; `step`
does one epoch or iteration, and a run that was saved and resumed gives bitwise the same steps. The chosen readout is
that of the *first* step with the maximal validation accuracy; test data never enters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

__all__ = ["ReadoutSolver", "accuracy"]


def accuracy(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> float:
    """Share of items [M, N] whose largest logit is at their label [M]; in [0, 1]."""
    return float((torch.addmm(bias, x, weight.T).argmax(dim=1) == y).double().mean())


def _check_split(name: str, x: Tensor, y: Tensor, n_classes: int) -> None:
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"{name}_x must be a floating point [M, N] tensor, got {x.dtype} {tuple(x.shape)}.")
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise ValueError(f"{name}_y must be int64 [{len(x)}] to match {name}_x, got {y.dtype} {tuple(y.shape)}.")
    if len(x) == 0:
        raise ValueError(f"{name}_x has no items; a readout needs at least one.")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name}_x has values that are not finite; `normalise_counts` guards items without spikes.")
    if not (int(y.min()) >= 0 and int(y.max()) < n_classes):
        raise ValueError(f"{name}_y must lie in [0, {n_classes}), got {int(y.min())}..{int(y.max())}.")


class ReadoutSolver(ABC):
    """Base of the solvers; a subclass brings `_advance`, `_finished` and its own part of the state.

    Args:
        train_x: features [M, N], float32 (float64 also works), finite.
        train_y: labels int64 [M].
        val_x: validation features [V, N], same dtype and device.
        val_y: validation labels int64 [V].
        n_classes: K, at least 2.

    Attributes:
        weight: current weight [K, N].
        bias: current bias [K].
        n_steps: steps done.
        best_step: 1-based number of the chosen step, 0 before the first.
        best_weight: weight [K, N] at that step (zeros before the first).
        best_bias: bias [K] at that step.
        best_val_accuracy: validation accuracy at that step, -1 before the first.

    Raises:
        ValueError: for data of a wrong shape, type or range, naming the argument.
    """

    def __init__(self, train_x: Tensor, train_y: Tensor, val_x: Tensor, val_y: Tensor, n_classes: int) -> None:
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}.")
        _check_split("train", train_x, train_y, n_classes)
        _check_split("val", val_x, val_y, n_classes)
        if val_x.shape[1] != train_x.shape[1] or val_x.dtype != train_x.dtype:
            raise ValueError(
                f"val_x must have the features and type of train_x, {train_x.shape[1]} {train_x.dtype}; "
                f"got {val_x.shape[1]} {val_x.dtype}."
            )
        self.train_x, self.train_y, self.val_x, self.val_y = train_x, train_y, val_x, val_y
        self.n_classes = n_classes
        self.weight = train_x.new_zeros(n_classes, train_x.shape[1])
        self.bias = train_x.new_zeros(n_classes)
        self.n_steps = 0
        self.best_step = 0
        self.best_weight = self.weight.clone()
        self.best_bias = self.bias.clone()
        self.best_val_accuracy = -1.0

    @property
    def done(self) -> bool:
        """Whether the solver has stopped; `step` then raises."""
        return self._finished()

    def step(self) -> dict[str, float]:
        """Do one epoch or iteration.

        Returns:
            `loss`, `train_accuracy` and `val_accuracy` (in [0, 1]) of this step.

        Raises:
            RuntimeError: if the solver is done.
        """
        if self.done:
            raise RuntimeError(
                f"{type(self).__name__} is done after {self.n_steps} steps; read best_weight and best_bias."
            )
        loss, train_accuracy = self._advance()
        self.n_steps += 1
        val_accuracy = accuracy(self.val_x, self.val_y, self.weight, self.bias)
        if val_accuracy > self.best_val_accuracy and self._selectable():
            self.best_step, self.best_val_accuracy = self.n_steps, val_accuracy
            self.best_weight, self.best_bias = self.weight.clone(), self.bias.clone()
        return {"loss": loss, "train_accuracy": train_accuracy, "val_accuracy": val_accuracy}

    def state_dict(self) -> dict[str, Any]:
        """Everything but the data, as tensors, numbers and strings (loadable with `weights_only=True`)."""
        return {
            "solver": type(self).__name__,
            "n_steps": self.n_steps,
            "best_step": self.best_step,
            "best_val_accuracy": self.best_val_accuracy,
            "best_weight": self.best_weight.clone(),
            "best_bias": self.best_bias.clone(),
            "weight": self.weight.clone(),
            "bias": self.bias.clone(),
            "own": self._own_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved run; the data and hyperparameters must be those it was started with.

        Raises:
            ValueError: if the state is of another solver or of a readout of another shape.
        """
        if state["solver"] != type(self).__name__:
            raise ValueError(f"state is of a {state['solver']}, this solver is a {type(self).__name__}.")
        if state["weight"].shape != self.weight.shape:
            raise ValueError(
                f"state has a weight of shape {tuple(state['weight'].shape)}, "
                f"the data needs {tuple(self.weight.shape)}."
            )
        self.n_steps, self.best_step = state["n_steps"], state["best_step"]
        self.best_val_accuracy = state["best_val_accuracy"]
        self.best_weight = state["best_weight"].clone().to(self.weight)
        self.best_bias = state["best_bias"].clone().to(self.bias)
        # In place: a subclass may hold views of these.
        self.weight.copy_(state["weight"])
        self.bias.copy_(state["bias"])
        self._load_own_state(state["own"])

    def _selectable(self) -> bool:
        """Whether the step just done may be chosen."""
        return True

    @abstractmethod
    def _advance(self) -> tuple[float, float]:
        """Update weight and bias; return loss and train accuracy."""

    @abstractmethod
    def _finished(self) -> bool:
        """Whether no step is left."""

    @abstractmethod
    def _own_state(self) -> dict[str, Any]:
        """The subclass's part of the state (copies)."""

    @abstractmethod
    def _load_own_state(self, state: dict[str, Any]) -> None:
        """Take up what `_own_state` returned."""
