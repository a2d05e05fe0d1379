"""What drives a reservoir during a call: levels of its stimulus channels, piecewise constant, a length of its own for every lane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Drive"]


@dataclass(frozen=True)
class Drive:
    """Levels of the stimulus channels during a call: piecewise constant, 0 before a lane's first break.

    Args:
        n_steps: int64 [L], length of the call in time steps, one a lane, at least 1.
        offsets: int64 [L + 1]; lane l has the breaks `offsets[l]:offsets[l + 1]`.
        step: int64 [K], step from which a break's levels hold, ascending and distinct within a lane.
        level: float64 [K, S].

    Raises:
        ValueError: if shapes or types disagree, or steps are out of order or range.
    """

    n_steps: Tensor
    offsets: Tensor = field(repr=False)
    step: Tensor = field(repr=False)
    level: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        n_lanes, n_breaks = self.n_steps.numel(), self.step.numel()
        if self.n_steps.ndim != 1 or n_lanes < 1 or int(self.n_steps.min()) < 1:
            raise ValueError(f"n_steps must be int64 [L], each at least 1, got {self.n_steps.tolist()}")
        if self.offsets.shape != (n_lanes + 1,) or self.step.shape != (n_breaks,) or self.level.ndim != 2:
            raise ValueError(
                f"offsets {tuple(self.offsets.shape)}, step {tuple(self.step.shape)} and level {tuple(self.level.shape)} "
                f"must be [{n_lanes + 1}], [K] and [K, S]"
            )
        if self.level.shape[0] != n_breaks or self.level.dtype != torch.float64:
            raise ValueError(f"level must be float64 [{n_breaks}, S], got {self.level.dtype} {tuple(self.level.shape)}")
        counts = self.offsets.diff()
        if int(self.offsets[0]) or int(self.offsets[-1]) != n_breaks or bool((counts < 0).any()):
            raise ValueError(f"offsets must run from 0 to the number of breaks {n_breaks}, without decreasing")
        if n_breaks:
            lane = torch.repeat_interleave(torch.arange(n_lanes), counts)
            if int(self.step.min()) < 0 or bool((self.step >= self.n_steps[lane]).any()):
                raise ValueError("every break must lie inside its lane's call, in [0, n_steps)")
            same = lane[1:] == lane[:-1]
            if bool((self.step.diff()[same] <= 0).any()):
                raise ValueError("breaks must be ascending and distinct within a lane")
        if not bool(torch.isfinite(self.level).all()):
            raise ValueError("level must be finite")

    @property
    def n_channels(self) -> int:
        """S."""
        return self.level.shape[1]

    @classmethod
    def intervals(
        cls,
        n_steps: int | Sequence[int],
        n_channels: int,
        intervals: Sequence[Sequence[tuple[int, int, int] | tuple[int, int, int, float]]],
    ) -> Drive:
        """Stimuli that are on from one step to another.

        Args:
            n_steps: length of the call in steps, one for all lanes or one a lane.
            n_channels: S.
            intervals: one sequence a lane, of (channel, first step, step after the last) with an optional level (1 by default). Levels of
                intervals that overlap on a channel add up; what lies outside the call is cut off.

        Raises:
            ValueError: if a channel is not in [0, S), an interval ends before it starts, or there is not one length a lane.
        """
        n_lanes = len(intervals)
        lengths = [n_steps] * n_lanes if isinstance(n_steps, int) else list(n_steps)
        if len(lengths) != n_lanes:
            raise ValueError(f"n_steps has {len(lengths)} entries for {n_lanes} lanes of intervals")
        steps, levels, counts = [], [], []
        for length, lane in zip(lengths, intervals, strict=True):
            cut = []
            for channel, start, stop, *level in lane:
                if not 0 <= channel < n_channels:
                    raise ValueError(f"interval of channel {channel}: channels lie in [0, {n_channels})")
                if stop < start:
                    raise ValueError(f"interval ({start}, {stop}) of channel {channel} ends before it starts")
                cut.append((channel, max(start, 0), min(stop, length), float(level[0]) if level else 1.0))
            breaks = sorted({t for _, start, stop, _ in cut for t in (start, stop) if start < stop and t < length})
            for t in breaks:
                row = [0.0] * n_channels
                for channel, start, stop, height in cut:
                    if start <= t < stop:
                        row[channel] += height
                levels.append(row)
            steps += breaks
            counts.append(len(breaks))
        return cls(
            torch.tensor(lengths, dtype=torch.int64),
            torch.tensor([0, *counts], dtype=torch.int64).cumsum(0),
            torch.tensor(steps, dtype=torch.int64),
            torch.tensor(levels, dtype=torch.float64).reshape(len(steps), n_channels),
        )

    @classmethod
    def dense(cls, levels: Tensor) -> Drive:
        """From the level of every channel at every step, [L, T, S]."""
        if levels.ndim != 3:
            raise ValueError(f"levels must be [L, T, S], got {tuple(levels.shape)}")
        levels = levels.double()
        before = torch.cat([torch.zeros_like(levels[:, :1]), levels[:, :-1]], 1)
        changed = (levels != before).any(2)
        lane, step = changed.nonzero(as_tuple=True)
        counts = torch.bincount(lane, minlength=len(levels))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(torch.full((len(levels),), levels.shape[1]), offsets, step, levels[lane, step])
