"""The error as the third factor: its sign, its gain and the attention gate that lets it through.

A gate opens at one phase of a trial and closes at another, relative to cue and outcome; an error passes with its
sign, its size or a part of it.
`Modulation` holds these choices, `attention_gate` and `modulated_error` are what rules call. Times are in ms after
cue onset.

Source: three-factor rules (Gerstner et al. 2018); gate and error of an independent model, see
docs/papers/prediction_object.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["ERRORS", "ErrorKind", "GateKind", "Modulation", "attention_gate", "modulated_error"]

GateKind = Literal["cue_to_outcome", "around_outcome", "whole_trial", "cue_to_end", "always"]
ErrorKind = Literal["signed", "positive", "negative", "unsigned", "sign"]

ERRORS: dict[str, Callable[[Tensor], Tensor]] = {
    "signed": lambda error: error,
    "positive": lambda error: error.clamp(min=0),
    "negative": lambda error: error.clamp(max=0),
    "unsigned": torch.abs,
    "sign": torch.sign,
}


@dataclass(frozen=True)
class Modulation:
    """Attention gate, error and gain of a local rule.

    Args:
        gate: "cue_to_outcome" is open from cue onset to `after_ms` behind the outcome (to `window_ms` if none comes);
            "around_outcome" only within
            `around_ms` of it; "cue_to_end" to the end of the window whatever comes, so that activity that the outcome
            evokes is learned, too; "whole_trial" from before the cue to the end of the trial; "always" also between
            trials.
        after_ms: how long the gate stays open after the outcome; the delay of the eligibility, so that no activity
            after the outcome is learned.
        around_ms: half width of "around_outcome".
        window_ms: end of the window in which outcomes are expected.
        error: which part of the error passes: all ("signed"), one sign of it, its size or its sign alone.
        gain: factor on the online error, at least 0; 0 stops online learning.
        offline_gain: factor on the error of consolidation, at least 0.

    Raises:
        ValueError: if a value is out of range.
    """

    gate: GateKind = "cue_to_outcome"
    after_ms: float = 60.0
    around_ms: float = 120.0
    window_ms: float = 1000.0
    error: ErrorKind = "signed"
    gain: float = 1.0
    offline_gain: float = 1.0

    def __post_init__(self) -> None:
        kinds = ("cue_to_outcome", "around_outcome", "whole_trial", "cue_to_end", "always")
        if self.gate not in kinds:
            raise ValueError(f"gate={self.gate!r} must be one of {', '.join(kinds)}")
        if self.error not in ERRORS:
            raise ValueError(f"error={self.error!r} must be one of {', '.join(ERRORS)}")
        for name in ("after_ms", "around_ms", "gain", "offline_gain"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")
        if not self.window_ms > 0:
            raise ValueError(f"window_ms={self.window_ms} must be positive")


def attention_gate(modulation: Modulation, time: Tensor, outcome: Tensor) -> Tensor:
    """Whether the error may act, at each sample of a trial.

    Args:
        modulation: the gate's kind and times.
        time: of the samples in ms after cue onset [T]; negative before the cue, beyond the trial in the interval
            after it.
        outcome: onset of the outcome in ms [L], negative where none comes.

    Returns:
        0 or 1, float [L, T] of the type of `time`.
    """
    time, outcome = time[None, :], outcome[:, None].to(time)
    came = outcome >= 0
    window = (time >= 0) & (time < modulation.window_ms)
    if modulation.gate == "cue_to_outcome":
        # the sample at outcome + after_ms is the last: its eligibility is the activity at the onset, before anything is evoked
        is_open = (time >= 0) & torch.where(came, time <= outcome + modulation.after_ms, window)
    elif modulation.gate == "around_outcome":
        is_open = came & ((time - outcome).abs() <= modulation.around_ms)
    elif modulation.gate == "cue_to_end":
        is_open = window.expand(len(outcome), -1)
    else:  # the module gives "always" the samples between trials, too
        is_open = torch.ones_like(came & window)
    return is_open.to(time.dtype)


def modulated_error(modulation: Modulation, error: Tensor) -> Tensor:
    """The error as it reaches the synapses: the part that passes, times the gain; shape of `error`."""
    return modulation.gain * ERRORS[modulation.error](error)
