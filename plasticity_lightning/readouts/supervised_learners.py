"""Learners that are taught: recursive least squares with and without forgetting, and ridge in closed form.

Foils of the prediction object. Nothing gates them; their targets are Gaussians around the true onset, 0 elsewhere.

Shapes: x [L, T, N]; weights float64. Source: an independent model, see docs/papers/prediction_object.md; FORCE after
Sussillo & Abbott 2009.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity_lightning.readouts.learner import State, Trial
from plasticity_lightning.readouts.modulation import Modulation
from plasticity_lightning.readouts.ridge import solve_ridge
from plasticity_lightning.readouts.rls import RLS, reset_inverse, rls_block_step
from plasticity_lightning.readouts.targets import gaussian_target, per_readout

__all__ = ["Force", "RLSLearner", "Ridge", "SupervisedLearner"]


@dataclass(frozen=True)
class SupervisedLearner:
    """What the learners of this file share: targets of a teacher who knows the onset, on some samples of the whole window.

    Args:
        alpha: penalty, positive.
        sigma_ms: width of the Gaussian targets, positive.
        every_ms: between two samples that count, a multiple of the samples' interval.
        window_ms: end of the window that is learned, which starts with the cue.

    Raises:
        ValueError: if a value is out of range.
    """

    product: ClassVar[bool] = False
    modulated: ClassVar[bool] = False

    alpha: float = 1.0
    sigma_ms: float = 40.0
    every_ms: float = 20.0
    window_ms: float = 1000.0

    def __post_init__(self) -> None:
        for name in ("alpha", "sigma_ms", "every_ms", "window_ms"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")

    def _samples(self, trial: Trial, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(samples that count, bool [T]; their targets [L, M, 1 + K] float64)."""
        inside = (
            (trial.time >= 0)
            & (trial.time < self.window_ms)
            & (trial.time.remainder(self.every_ms) < trial.interval_ms / 2)
        )
        bump = gaussian_target(trial.time, trial.onset, self.sigma_ms)
        return inside, per_readout(bump, trial.outcome, weight.shape[1] - 1)[:, inside].double()


@dataclass(frozen=True)
class RLSLearner(SupervisedLearner):
    """Foil: recursive least squares with forgetting on supervised Gaussian targets over the whole window.

    Args:
        forgetting: lambda in (0, 1]; the other options are `SupervisedLearner`'s, with P_0 = I / alpha.

    Raises:
        ValueError: if a value is out of range.
    """

    forgetting: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.forgetting <= 1:
            raise ValueError(f"forgetting={self.forgetting} must lie in (0, 1]")
        super().__post_init__()

    def start(self, n_lanes: int, n_outcomes: int, n_neurons: int) -> State:
        """Weights of 0 and P_0, float64."""
        weight = torch.zeros(n_lanes, 1 + n_outcomes, n_neurons, dtype=torch.float64)
        return {"weight": weight, "inverse": reset_inverse(weight, self.alpha)}

    def learn(
        self, state: State, x: Tensor, trial: Trial, modulation: Modulation, threads: int = 1
    ) -> tuple[State, State]:
        """The samples every `every_ms` of the window."""
        chosen, target = self._samples(trial, state["weight"])
        old = RLS(state["weight"], state["inverse"])
        after, output = rls_block_step(old, x[:, chosen], target, trial.learn, self.forgetting)
        error = (target - output)[..., 0].abs().mean(1) * trial.learn
        return {"weight": after.weight, "inverse": after.inverse}, {"online_error": error}

    def reset(self, state: State) -> State:
        """P back to P_0."""
        return {**state, "inverse": reset_inverse(state["weight"], self.alpha)}


@dataclass(frozen=True)
class Force(RLSLearner):
    """Foil: FORCE, recursive least squares that never forgets; arguments as `RLSLearner`.

    Raises:
        ValueError: if it is to forget: that is the rule `rls`.
    """

    forgetting: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.forgetting != 1:
            raise ValueError(f"forgetting={self.forgetting} must be 1 for rule 'force'; rule 'rls' forgets")


@dataclass(frozen=True)
class Ridge(SupervisedLearner):
    """Foil: the ridge solution on all samples so far, in closed form after each `every_trials`-th learning trial.

    What FORCE computes recursively.

    Args:
        every_trials: at least 1; the other options are `SupervisedLearner`'s.

    Raises:
        ValueError: if a value is out of range.
    """

    every_trials: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every_trials < 1:
            raise ValueError(f"every_trials={self.every_trials} must be at least 1")

    def start(self, n_lanes: int, n_outcomes: int, n_neurons: int) -> State:
        """Weights and sums of 0, float64."""
        shape, double = (n_lanes, 1 + n_outcomes, n_neurons), torch.float64
        return {
            "weight": torch.zeros(shape, dtype=double),
            "moment": torch.zeros(n_lanes, n_neurons, n_neurons, dtype=double),
            "cross": torch.zeros(n_lanes, n_neurons, 1 + n_outcomes, dtype=double),
            "trials": torch.zeros(n_lanes, dtype=torch.int64),
        }

    def learn(
        self, state: State, x: Tensor, trial: Trial, modulation: Modulation, threads: int = 1
    ) -> tuple[State, State]:
        """Add to the sums, and solve when it is time."""
        chosen, target = self._samples(trial, state["weight"])
        inputs = x[:, chosen].double()
        error = (target - inputs @ state["weight"].transpose(1, 2))[..., 0].abs().mean(1) * trial.learn
        learned = inputs.transpose(1, 2) * trial.learn[:, None, None]
        moment, cross = state["moment"] + learned @ inputs, state["cross"] + learned @ target
        trials = state["trials"] + (trial.learn > 0)
        due = (trial.learn > 0) & (trials % self.every_trials == 0)
        weight = state["weight"].clone()
        if bool(due.any()):
            weight[due] = solve_ridge(moment[due], cross[due], self.alpha).transpose(1, 2)
        return {"weight": weight, "moment": moment, "cross": cross, "trials": trials}, {"online_error": error}

    def reset(self, state: State) -> State:
        """Without its sums."""
        return {**{name: torch.zeros_like(value) for name, value in state.items()}, "weight": state["weight"]}
