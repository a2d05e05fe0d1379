"""The world of the prediction task: what each cue announces, phase by phase, and the truth that scores compare with.

Source: an independent task with the controls that Yamada & Chao (arXiv 2510.14382) name; see
docs/papers/prediction_object.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_lightning.data.errors import DataArgumentError

__all__ = ["STANDARD", "Cue", "Phase", "check_phases", "truth_of"]


@dataclass(frozen=True)
class Cue:
    """What a cue announces during a phase.

    Args:
        latencies_ms: possible onsets of the outcome after cue onset, each positive and within the window.
        outcomes: probability of each outcome, given that one comes; they sum to 1.
        latency_weights: probability of each latency; None weighs them alike.
        event: probability that an outcome comes at all, in [0, 1].
        channels: stimulus channels that are on together; None is the cue's own. Two channels are a compound of two
            cues.
        learned: False makes every trial of the cue a probe.

    Raises:
        DataArgumentError: if a value is out of range.
    """

    latencies_ms: list[float]
    outcomes: list[float]
    latency_weights: list[float] | None = None
    event: float = 1.0
    channels: list[int] | None = None
    learned: bool = True

    def __post_init__(self) -> None:
        if not self.latencies_ms or not all(latency > 0 for latency in self.latencies_ms):
            raise DataArgumentError(f"latencies_ms={self.latencies_ms}: must be one or more positive times.")
        if len(set(self.latencies_ms)) < len(self.latencies_ms):
            raise DataArgumentError(f"latencies_ms={self.latencies_ms}: must not hold a time twice.")
        for name, weights in (("outcomes", self.outcomes), ("latency_weights", self.latency_weights)):
            if weights is not None and (min(weights, default=-1) < 0 or abs(sum(weights) - 1) > 1e-9):
                raise DataArgumentError(f"{name}={weights}: must be probabilities that sum to 1.")
        if self.latency_weights is not None and len(self.latency_weights) != len(self.latencies_ms):
            raise DataArgumentError(
                f"latency_weights={self.latency_weights}: must have one entry for each of latencies_ms={self.latencies_ms}."
            )
        if not 0 <= self.event <= 1:
            raise DataArgumentError(f"event={self.event}: must lie in [0, 1].")
        if self.channels is not None and (not self.channels or min(self.channels) < 0):
            raise DataArgumentError(
                f"channels={self.channels}: must be channel numbers from 0, or null for the cue's own."
            )

    @property
    def weights(self) -> list[float]:
        """Probability of each latency."""
        n = len(self.latencies_ms)
        return [1 / n] * n if self.latency_weights is None else self.latency_weights

    def events(self) -> list[tuple[int, int, float]]:
        """(outcome, index of its latency, probability) of all that may come, with probability above 0.

        The rest are omissions.
        """
        return [
            (k, m, self.event * p * q)
            for k, p in enumerate(self.outcomes)
            for m, q in enumerate(self.weights)
            if self.event * p * q > 0
        ]


@dataclass(frozen=True)
class Phase:
    """A stretch of the protocol in which the world stays as it is.

    Args:
        cues: what each cue announces; every phase has the same number of cues and outcomes.
        blocks: mini-blocks, each of which shows every cue once, at least 1.

    Raises:
        DataArgumentError: if there is no cue or no block.
    """

    cues: list[Cue]
    blocks: int = 70

    def __post_init__(self) -> None:
        if not self.cues:
            raise DataArgumentError("cues=[]: a phase needs at least one cue.")
        if self.blocks < 1:
            raise DataArgumentError(f"blocks={self.blocks}: must be an integer of at least 1.")


STANDARD = (
    Phase([Cue([300.0], [0.8, 0.2]), Cue([500.0], [0.5, 0.5]), Cue([700.0], [0.2, 0.8])]),
    Phase([Cue([600.0], [0.8, 0.2]), Cue([500.0], [0.5, 0.5]), Cue([700.0], [0.2, 0.8])]),
    Phase([Cue([600.0], [0.2, 0.8]), Cue([500.0], [0.5, 0.5]), Cue([700.0], [0.2, 0.8])]),
)


def truth_of(cues: Sequence[Cue], n_latencies: int) -> dict[str, Tensor]:
    """What these C cues announce: `latencies_ms`, `latency_probability` [C, M], `outcome_probability` [C, K], `event_probability` [C].

    Rows are filled up to M = `n_latencies` with NaN ms of probability 0.
    """
    missing = [n_latencies - len(cue.latencies_ms) for cue in cues]
    return {
        "latencies_ms": torch.tensor([c.latencies_ms + [float("nan")] * m for c, m in zip(cues, missing, strict=True)]),
        "latency_probability": torch.tensor([c.weights + [0.0] * m for c, m in zip(cues, missing, strict=True)]),
        "outcome_probability": torch.tensor([cue.outcomes for cue in cues]),
        "event_probability": torch.tensor([cue.event for cue in cues]),
    }


def check_phases(phases: Sequence[Phase], window_ms: int, urn: int) -> None:
    """Refuse a protocol that does not hang together.

    Raises:
        DataArgumentError: if there is no phase, phases differ in their numbers of cues or outcomes, a latency lies behind
            the window, a channel is no cue's, or an urn of `urn` trials (0: none) cannot hold the probabilities exactly.
    """
    if not phases:
        raise DataArgumentError("phases=[]: must hold at least one phase.")
    cues, outcomes = len(phases[0].cues), len(phases[0].cues[0].outcomes)
    for number, phase in enumerate(phases):
        if len(phase.cues) != cues or any(len(cue.outcomes) != outcomes for cue in phase.cues):
            raise DataArgumentError(
                f"phases: every phase must have {cues} cues with {outcomes} outcomes, as the first has; phase {number} differs."
            )
        for cue in phase.cues:
            if max(cue.latencies_ms) >= window_ms:
                raise DataArgumentError(f"latencies_ms={cue.latencies_ms}: must be below window_ms={window_ms}.")
            parts = [urn * probability for _, _, probability in cue.events()]
            if urn and cue.learned and any(abs(part - round(part)) > 1e-6 for part in parts):
                raise DataArgumentError(
                    f"urn={urn}: cannot hold the probabilities {[round(p / urn, 6) for p in parts]} exactly; "
                    "give a multiple of it, or urn=0 for independent draws."
                )
            if cue.channels is not None and max(cue.channels) >= cues:
                raise DataArgumentError(f"channels={cue.channels}: cues have the channels 0 to {cues - 1}.")
