"""What a learner of the prediction task is: it takes a trial's input and changes the weights.

Rows of the weights are the readout of time ("when"), one of each outcome, then, for some, a bank of further "when"
rows, one a latency. A learner is a frozen set of options; its state is a dict of tensors with lanes in front,
`weight` [L, R, N] among them.

Shapes: x [L, T, N]. Source: an independent model, see docs/papers/prediction_object.md.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor

from plasticity_lightning.readouts.modulation import Modulation

__all__ = ["Learner", "State", "Trial"]

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
