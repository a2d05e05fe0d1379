"""Learners that learn within the trial: the prediction object's rule, and normalised LMS as its foil.

Both run the three-factor rule over the samples (`three_factor`, compiled in `trial`). The prediction object learns
time so, and identities offline from tags; LMS learns everything so.

Shapes: x [L, T, N]. Source: an independent model, see docs/papers/prediction_object.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from plasticity_lightning.readouts.consolidation import (
    TagBuffer,
    consolidate,
    onset_tag,
    remember_tag,
    replay_tags,
    tag_buffer,
)
from plasticity_lightning.readouts.eligibility import EligibilityKind
from plasticity_lightning.readouts.learner import State, Trial
from plasticity_lightning.readouts.modulation import Modulation, attention_gate
from plasticity_lightning.readouts.surprise import associability_step, expected_error_step, surprised_rate
from plasticity_lightning.readouts.targets import evoked_response, outcome_one_hot, per_readout
from plasticity_lightning.readouts.three_factor import three_factor_state
from plasticity_lightning.readouts.trial import three_factor_over_trial

__all__ = ["NormalisedLMS", "OnlineLearner", "ThreeFactorRule"]


@dataclass(frozen=True)
class OnlineLearner:
    """What the learners of this file share: the delta rule at every sample on lagged input, gated and modulated.

    Args:
        eta: in (0, 2).
        eligibility: kind of the eligibility trace.
        delay_ms: its delay, at least 0.
        response_ms: peak of the evoked response after the onset, positive.

    Raises:
        ValueError: if a value is out of range.
    """

    modulated: ClassVar[bool] = True

    eta: float = 0.3
    eligibility: EligibilityKind = "lag"
    delay_ms: float = 60.0
    response_ms: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.eta < 2:
            raise ValueError(f"eta={self.eta} must lie in (0, 2): from 2 on the normalised rule diverges")
        if not self.delay_ms >= 0:
            raise ValueError(f"delay_ms={self.delay_ms} must be at least 0")
        if not self.response_ms > 0:
            raise ValueError(f"response_ms={self.response_ms} must be positive")

    def _pass(
        self, weight: Tensor, x: Tensor, target: Tensor, trial: Trial, modulation: Modulation, threads: int
    ) -> tuple[Tensor, Tensor]:
        """(weights [L, R, N] after the trial, mean unsigned error of the first readout where the gate was open [L])."""
        gate = attention_gate(modulation, trial.time, trial.onset).to(x) * trial.learn[:, None].to(x)
        gate = gate * (trial.time <= trial.end[:, None])  # shorter lanes are padded
        state = three_factor_state(weight, self.eligibility, round(self.delay_ms / trial.interval_ms))
        after, output = three_factor_over_trial(state, x, target.to(x), gate, self.eta, 1.0, modulation, threads)
        error = (target[..., 0] - output[..., 0]).abs() * gate
        return after.weight, error.sum(1) / gate.sum(1).clamp(min=1)


@dataclass(frozen=True)
class ThreeFactorRule(OnlineLearner):
    """Time online by the three-factor rule, identity offline from tags: the prediction object.

    Args:
        eta: of the online rule; this and what else `OnlineLearner` has.
        offline: "single", one update a trial; "replay", several from the buffer; "none" never learns identities.
        eta_offline: of each update; None is 0.2 for "single" and 0.05 for "replay".
        updates: of a trial with "replay".
        memory: tags kept, at least 1; a replay uses the newest `replay_memory`.
        replay_memory: of them.
        tag_ms: length of the tag.
        tag_end_ms: where it ends after the onset; 0: strictly before it. Above 0 the outcome leaks into its own
            prediction.
        bank_ms: latencies with a "when" row of their own; they sum to the readout of time if they are all the
            latencies there are.
        surprise: what raises the offline rate: nothing, or the "unsigned" or "signed" surprise of `surprise`.
        surprise_gain: how much, at least 0.
        surprise_threshold: surprise that is ignored, at least 0.
        surprise_decay: rate at which surprise follows the errors, in (0, 1].

    Raises:
        ValueError: if a value is out of range.
    """

    product: ClassVar[bool] = True

    eta: float = 0.3
    offline: Literal["single", "replay", "none"] = "single"
    eta_offline: float | None = None
    updates: int = 8
    memory: int = 60
    replay_memory: int = 15
    tag_ms: float = 20.0
    tag_end_ms: float = 0.0
    bank_ms: tuple[float, ...] = ()
    surprise: Literal["none", "unsigned", "signed"] = "none"
    surprise_gain: float = 8.0
    surprise_threshold: float = 0.0
    surprise_decay: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.offline not in ("single", "replay", "none"):
            raise ValueError(f"offline={self.offline!r} must be 'single', 'replay' or 'none'")
        if not 0 < self.rate_offline < 2:
            raise ValueError(f"eta_offline={self.eta_offline} must lie in (0, 2), or be None")
        if not 1 <= self.replay_memory <= self.memory:
            raise ValueError(f"replay_memory={self.replay_memory} must lie in 1..memory={self.memory}")
        if self.updates < 1:
            raise ValueError(f"updates={self.updates} must be at least 1")
        if self.surprise not in ("none", "unsigned", "signed"):
            raise ValueError(f"surprise={self.surprise!r} must be 'none', 'unsigned' or 'signed'")
        if not self.surprise_gain >= 0 or not self.surprise_threshold >= 0 or not 0 < self.surprise_decay <= 1:
            raise ValueError(
                f"surprise_gain={self.surprise_gain} and surprise_threshold={self.surprise_threshold} must be at least 0, "
                f"surprise_decay={self.surprise_decay} in (0, 1]"
            )

    @property
    def rate_offline(self) -> float:
        """Rate of one offline update."""
        return (
            {"single": 0.2, "replay": 0.05, "none": 0.2}[self.offline] if self.eta_offline is None else self.eta_offline
        )

    def start(self, n_lanes: int, n_outcomes: int, n_neurons: int) -> State:
        """Weights of 0, an empty buffer, no surprise: `surprise` [L] and the readout of the expected error [L, N]."""
        weight = torch.zeros(n_lanes, 1 + n_outcomes + len(self.bank_ms), n_neurons)
        buffer = tag_buffer(weight[:, 1 : 1 + n_outcomes], self.memory)
        return {
            "weight": weight,
            **_buffer_state(buffer),
            "surprise": torch.zeros(n_lanes),
            "expected_error": torch.zeros(n_lanes, n_neurons),
        }

    def learn(
        self, state: State, x: Tensor, trial: Trial, modulation: Modulation, threads: int = 1
    ) -> tuple[State, State]:
        """Online pass over the samples, then consolidation in the interval that follows."""
        what = slice(1, 1 + state["tag_outcome"].shape[-1])
        weight = state["weight"].clone()
        online = [0, *range(what.stop, weight.shape[1])]
        response = evoked_response(trial.time, trial.onset, self.response_ms)
        own = [(trial.onset - latency).abs() < trial.interval_ms / 2 for latency in self.bank_ms]
        target = torch.stack([response, *(response * mine[:, None] for mine in own)], -1)
        after, error = self._pass(weight[:, online], x, target, trial, modulation, threads)
        weight[:, online] = after
        tag = onset_tag(x, trial.time, trial.onset + self.tag_end_ms, self.tag_ms)
        learns = trial.learn * (trial.outcome >= 0)
        outcome = outcome_one_hot(trial.outcome, what.stop - 1).to(x)
        buffer = remember_tag(_buffer(state), tag, outcome, learns)
        unexpected = outcome - (weight[:, what] @ tag[..., None])[..., 0]
        surprise, expected_error = self._surprise(state, tag, unexpected)
        surprise = torch.where(learns > 0, surprise, state["surprise"])
        expected_error = torch.where(learns[:, None] > 0, expected_error, state["expected_error"])
        weight[:, what] = self._consolidate(
            weight[:, what], buffer, tag, outcome, learns, surprise, modulation.offline_gain
        )
        new = {"weight": weight, **_buffer_state(buffer), "surprise": surprise, "expected_error": expected_error}
        return new, {"online_error": error, "offline_error": unexpected.abs().mean(-1) * learns, "surprise": surprise}

    def reset(self, state: State) -> State:
        """Without tags and surprise."""
        return {**{name: torch.zeros_like(value) for name, value in state.items()}, "weight": state["weight"]}

    def _surprise(self, state: State, tag: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
        """(surprise [L], readout of the expected error [L, N]) after an error [L, K]."""
        if self.surprise == "unsigned":
            return associability_step(state["surprise"], error.abs().mean(-1), self.surprise_decay), state[
                "expected_error"
            ]
        if self.surprise == "signed":  # of the first outcome against the rest
            signed = (error[:, 0] - error[:, 1:].sum(-1)) / 2
            expected_error, surprise = expected_error_step(state["expected_error"], tag, signed, self.surprise_decay)
            return surprise.abs(), expected_error
        return state["surprise"], state["expected_error"]

    def _consolidate(
        self,
        weight: Tensor,
        buffer: TagBuffer,
        tag: Tensor,
        outcome: Tensor,
        learns: Tensor,
        surprise: Tensor,
        gain: float,
    ) -> Tensor:
        rate = gain * surprised_rate(self.rate_offline, surprise, self.surprise_gain, self.surprise_threshold)[:, None]
        if self.offline == "single":
            return consolidate(weight, tag, outcome, learns, rate)[0]
        if self.offline == "replay":
            n = self.replay_memory
            newest = TagBuffer(buffer.tag[:, :n], buffer.outcome[:, :n], buffer.filled.clamp(max=n))
            return replay_tags(weight, newest, learns, rate, self.updates)[0]
        return weight


@dataclass(frozen=True)
class NormalisedLMS(OnlineLearner):
    """Foil: all readouts online by the delta rule on the evoked responses, no product and nothing offline.

    Lag and gate as the three-factor rule has them.

    Args:
        eta: as all options, see `OnlineLearner`.

    Raises:
        ValueError: if a value is out of range.
    """

    product: ClassVar[bool] = False

    eta: float = 0.4

    def start(self, n_lanes: int, n_outcomes: int, n_neurons: int) -> State:
        """Weights of 0."""
        return {"weight": torch.zeros(n_lanes, 1 + n_outcomes, n_neurons)}

    def learn(
        self, state: State, x: Tensor, trial: Trial, modulation: Modulation, threads: int = 1
    ) -> tuple[State, State]:
        """One pass over the samples."""
        target = per_readout(
            evoked_response(trial.time, trial.onset, self.response_ms), trial.outcome, state["weight"].shape[1] - 1
        )
        weight, error = self._pass(state["weight"], x, target, trial, modulation, threads)
        return {"weight": weight}, {"online_error": error}

    def reset(self, state: State) -> State:
        """It has no history."""
        return state


def _buffer(state: State) -> TagBuffer:
    return TagBuffer(state["tag"], state["tag_outcome"], state["tags"])


def _buffer_state(buffer: TagBuffer) -> State:
    return {"tag": buffer.tag, "tag_outcome": buffer.outcome, "tags": buffer.filled}
