"""Whole-trial learners of the prediction object and its foils, one interface.

Take a trial's input, change the weights.

All see the same input and the same trials; they differ in their targets, in what gates them and in how they learn.
Rows of the weights are the readout of time ("when"), one of each outcome, then, for some, a bank of further "when"
rows, one a latency. A learner is a frozen set of options; its state is a dict of tensors with lanes in front,
`weight` [L, R, N] among them. A learner of your own is one more entry of `LEARNERS`.

Shapes: x [L, T, N]. Source: an independent model, see docs/papers/prediction_object.md.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from plasticity_lightning.errors import nearest
from plasticity_lightning.readouts.consolidation import (
    TagBuffer,
    consolidate,
    onset_tag,
    remember_tag,
    replay_tags,
    tag_buffer,
)
from plasticity_lightning.readouts.eligibility import EligibilityKind
from plasticity_lightning.readouts.modulation import Modulation, attention_gate
from plasticity_lightning.readouts.ridge import solve_ridge
from plasticity_lightning.readouts.rls import RLS, reset_inverse, rls_block_step
from plasticity_lightning.readouts.surprise import associability_step, expected_error_step, surprised_rate
from plasticity_lightning.readouts.targets import evoked_response, gaussian_target, outcome_one_hot
from plasticity_lightning.readouts.three_factor import three_factor_state
from plasticity_lightning.readouts.trial import three_factor_over_trial

__all__ = [
    "LEARNERS",
    "Force",
    "Learner",
    "NormalisedLMS",
    "RLSLearner",
    "Ridge",
    "ThreeFactorRule",
    "Trial",
    "learner_named",
]

State = dict[str, Tensor]


class Trial(NamedTuple):
    """What happened in a trial.

    Attributes:
        time: of the samples, ms after cue onset [T].
        onset: of the outcome, ms [L]; negative: none.
        outcome: int64 [L]; -1: none.
        learn: whether a lane learns from it, 0 or 1, float [L].
        end: of each lane's own trial and interval, ms [L]; samples behind it are padding.
    """

    time: Tensor
    onset: Tensor
    outcome: Tensor
    learn: Tensor
    end: Tensor

    @property
    def interval_ms(self) -> float:
        """Between two samples."""
        return float(self.time[1] - self.time[0])


class Learner(Protocol):
    """A rule over trials.

    Attributes:
        product: the prediction of outcome k is [z_when]+ [z_k]+; otherwise [z_k]+ alone.
        modulated: whether it consults a `Modulation`.
    """

    product: ClassVar[bool]
    modulated: ClassVar[bool]

    def start(self, n_lanes: int, n_outcomes: int, n_neurons: int) -> State:
        """The state before the first trial."""

    def learn(
        self, state: State, x: Tensor, trial: Trial, modulation: Modulation, threads: int = 1
    ) -> tuple[State, State]:
        """(state after the trial, values to log, float [L] each); lanes whose `learn` is 0 keep their weights."""

    def reset(self, state: State) -> State:
        """The state with its weights and without its history."""


@dataclass(frozen=True)
class ThreeFactorRule:
    """Time online by the three-factor rule, identity offline from tags: the prediction object.

    Args:
        eta: of the online rule, in (0, 2).
        eligibility: kind of the eligibility trace.
        delay_ms: its delay, at least 0.
        response_ms: peak of the evoked response after the onset, positive.
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
    modulated: ClassVar[bool] = True

    eta: float = 0.3
    eligibility: EligibilityKind = "lag"
    delay_ms: float = 60.0
    response_ms: float = 60.0
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
        _check_online(self.eta, self.delay_ms, self.response_ms)
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
        after, error = _online(self, weight[:, online], x, target, trial, modulation, threads)
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
class NormalisedLMS:
    """Foil: all readouts online by the delta rule on the evoked responses, no product and nothing offline.

    Lag and gate as the three-factor rule has them.

    Args:
        eta: in (0, 2).
        eligibility: kind of the eligibility trace.
        delay_ms: its delay, at least 0.
        response_ms: peak of the evoked response after the onset, positive.

    Raises:
        ValueError: if a value is out of range.
    """

    product: ClassVar[bool] = False
    modulated: ClassVar[bool] = True

    eta: float = 0.4
    eligibility: EligibilityKind = "lag"
    delay_ms: float = 60.0
    response_ms: float = 60.0

    def __post_init__(self) -> None:
        _check_online(self.eta, self.delay_ms, self.response_ms)

    def start(self, n_lanes: int, n_outcomes: int, n_neurons: int) -> State:
        """Weights of 0."""
        return {"weight": torch.zeros(n_lanes, 1 + n_outcomes, n_neurons)}

    def learn(
        self, state: State, x: Tensor, trial: Trial, modulation: Modulation, threads: int = 1
    ) -> tuple[State, State]:
        """One pass over the samples."""
        target = _per_readout(evoked_response(trial.time, trial.onset, self.response_ms), trial, state["weight"])
        weight, error = _online(self, state["weight"], x, target, trial, modulation, threads)
        return {"weight": weight}, {"online_error": error}

    def reset(self, state: State) -> State:
        """It has no history."""
        return state


@dataclass(frozen=True)
class RLSLearner:
    """Foil: recursive least squares with forgetting on supervised Gaussian targets over the whole window.

    Args:
        forgetting: lambda in (0, 1].
        alpha: P_0 = I / alpha, positive.
        sigma_ms: width of the targets, positive.
        every_ms: between two updates, a multiple of the samples' interval.
        window_ms: end of the window that is learned, which starts with the cue.

    Raises:
        ValueError: if a value is out of range.
    """

    product: ClassVar[bool] = False
    modulated: ClassVar[bool] = False

    forgetting: float = 0.999
    alpha: float = 1.0
    sigma_ms: float = 40.0
    every_ms: float = 20.0
    window_ms: float = 1000.0

    def __post_init__(self) -> None:
        if not 0 < self.forgetting <= 1:
            raise ValueError(f"forgetting={self.forgetting} must lie in (0, 1]")
        _check_supervised(self.alpha, self.sigma_ms, self.every_ms, self.window_ms)

    def start(self, n_lanes: int, n_outcomes: int, n_neurons: int) -> State:
        """Weights of 0 and P_0, float64."""
        weight = torch.zeros(n_lanes, 1 + n_outcomes, n_neurons, dtype=torch.float64)
        return {"weight": weight, "inverse": reset_inverse(weight, self.alpha)}

    def learn(
        self, state: State, x: Tensor, trial: Trial, modulation: Modulation, threads: int = 1
    ) -> tuple[State, State]:
        """The samples every `every_ms` of the window."""
        chosen, target = _supervised(self, x, trial, state["weight"])
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
class Ridge:
    """Foil: the ridge solution on all samples so far, in closed form after each `every_trials`-th learning trial.

    What FORCE computes recursively.

    Args:
        alpha: penalty, positive.
        sigma_ms: width of the targets, positive.
        every_ms: between two samples that count.
        window_ms: end of the window.
        every_trials: at least 1.

    Raises:
        ValueError: if a value is out of range.
    """

    product: ClassVar[bool] = False
    modulated: ClassVar[bool] = False

    alpha: float = 1.0
    sigma_ms: float = 40.0
    every_ms: float = 20.0
    window_ms: float = 1000.0
    every_trials: int = 1

    def __post_init__(self) -> None:
        _check_supervised(self.alpha, self.sigma_ms, self.every_ms, self.window_ms)
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
        chosen, target = _supervised(self, x, trial, state["weight"])
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


LEARNERS: dict[str, type[Learner]] = {
    "three_factor": ThreeFactorRule,
    "lms": NormalisedLMS,
    "force": Force,
    "rls": RLSLearner,
    "ridge": Ridge,
}


def learner_named(rule: str, arguments: dict[str, Any] | None = None) -> Learner:
    """The learner `rule` of `LEARNERS`, or one of your own by its import path, with these arguments.

    Raises:
        ValueError: for an unknown rule or argument, with the nearest one, or a value out of range.
    """
    kind, arguments = _learner_class(rule), dict(arguments or {})
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in arguments:
        if name not in known:
            raise ValueError(
                f"rule_arguments: rule {rule!r} has no {name!r}, but {', '.join(known)}{nearest(name, known)}"
            )
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()})


def _learner_class(rule: str) -> type[Learner]:
    if rule in LEARNERS:
        return LEARNERS[rule]
    module, _, name = rule.rpartition(".")
    if not module:
        raise ValueError(
            f"rule={rule!r} must be one of {', '.join(LEARNERS)}, or an import path{nearest(rule, LEARNERS)}"
        )
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"rule={rule!r} cannot be imported: {error}") from error
    if not is_dataclass(kind) or not all(
        hasattr(kind, part) for part in ("start", "learn", "reset", "product", "modulated")
    ):
        raise ValueError(
            f"rule={rule!r} must be a dataclass with start, learn, reset, product and modulated: see `readouts.learners.Learner`"
        )
    return cast(type[Learner], kind)


def _online(
    rule: ThreeFactorRule | NormalisedLMS,
    weight: Tensor,
    x: Tensor,
    target: Tensor,
    trial: Trial,
    modulation: Modulation,
    threads: int,
) -> tuple[Tensor, Tensor]:
    """(weights [L, R, N] after the trial, mean unsigned error of the first readout where the gate was open [L])."""
    gate = attention_gate(modulation, trial.time, trial.onset).to(x) * trial.learn[:, None].to(x)
    gate = gate * (trial.time <= trial.end[:, None])  # shorter lanes are padded
    state = three_factor_state(weight, rule.eligibility, round(rule.delay_ms / trial.interval_ms))
    after, output = three_factor_over_trial(state, x, target.to(x), gate, rule.eta, 1.0, modulation, threads)
    error = (target[..., 0] - output[..., 0]).abs() * gate
    return after.weight, error.sum(1) / gate.sum(1).clamp(min=1)


def _per_readout(response: Tensor, trial: Trial, weight: Tensor) -> Tensor:
    """The response [L, T] as target of the event and of the outcome that came, [L, T, 1 + K]."""
    which = outcome_one_hot(trial.outcome, weight.shape[1] - 1).to(response)
    which = torch.cat([torch.ones_like(which[:, :1]), which], 1)
    return response[..., None] * which[:, None, :]


def _supervised(rule: RLSLearner | Ridge, x: Tensor, trial: Trial, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(samples that count, bool [T]; their targets [L, M, 1 + K] float64)."""
    inside = (
        (trial.time >= 0)
        & (trial.time < rule.window_ms)
        & (trial.time.remainder(rule.every_ms) < trial.interval_ms / 2)
    )
    target = _per_readout(gaussian_target(trial.time, trial.onset, rule.sigma_ms), trial, weight)
    return inside, target[:, inside].double()


def _buffer(state: State) -> TagBuffer:
    return TagBuffer(state["tag"], state["tag_outcome"], state["tags"])


def _buffer_state(buffer: TagBuffer) -> State:
    return {"tag": buffer.tag, "tag_outcome": buffer.outcome, "tags": buffer.filled}


def _check_online(eta: float, delay_ms: float, response_ms: float) -> None:
    if not 0 < eta < 2:
        raise ValueError(f"eta={eta} must lie in (0, 2): from 2 on the normalised rule diverges")
    if not delay_ms >= 0:
        raise ValueError(f"delay_ms={delay_ms} must be at least 0")
    if not response_ms > 0:
        raise ValueError(f"response_ms={response_ms} must be positive")


def _check_supervised(alpha: float, sigma_ms: float, every_ms: float, window_ms: float) -> None:
    for name, value in (("alpha", alpha), ("sigma_ms", sigma_ms), ("every_ms", every_ms), ("window_ms", window_ms)):
        if not value > 0:
            raise ValueError(f"{name}={value} must be positive")
