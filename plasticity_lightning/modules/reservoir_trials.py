"""Trials of an open-loop reservoir, lane by lane: simulated, or taken from a cache of what was simulated before.

What the reservoir does depends on nothing that is read from it, so a trial's states are named by all that came before
them (`runtime.trial_store`) and shared by every run with the same history. The carried state is passed in and
returned, never kept here, so a trial can be tried without moving a run.

Shapes: l lanes of a batch, N neurons, T samples, S steps of 1 ms. States are kept in half precision, cached or not,
so that a cache changes no result.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plasticity_lightning.runtime.trial_store import TrialStore, next_key
from plasticity_lightning.spiking.reservoir import (
    Drive,
    EngineName,
    Reservoir,
    ReservoirActivity,
    ReservoirOptions,
    ReservoirState,
    Trace,
    draw_reservoir,
    initial_state,
    join_lanes,
)
from plasticity_lightning.spiking.reservoir import engine as select_engine

__all__ = ["CarriedState", "ReservoirTrials", "lanes_of"]

CarriedState = dict[str, Tensor]

_FLOATS = ("v", "u", "first", "second", "inhibitory", "rising", "decaying")


class ReservoirTrials:
    """Runs trials of `PredictionTaskDataModule`. Lane l has the network and the noise of seed `seed + l`.

    Args:
        options: how a lane's network is drawn.
        seed: of lane 0.
        engine: simulation back end.
        threads: CPU threads over lanes; None takes all.
        cache_dir: where trials are kept for other runs; None keeps none.
    """

    def __init__(
        self,
        options: ReservoirOptions,
        seed: int,
        engine: EngineName,
        threads: int | None,
        cache_dir: str | None,
    ) -> None:
        self.options, self.seed, self.threads = options, seed, threads
        self.trace = Trace()
        self._simulate = select_engine(engine)
        self._store = None if cache_dir is None else TrialStore(Path(cache_dir))
        self._drawn: tuple[range, Reservoir] | None = None

    def start(self, n_lanes: int) -> CarriedState:
        """The state before the first trial, by name, each [L, ...].

        The reservoir's own variables float64 [L, N], `step` int64 [L], and `history` uint8 [L, 16], the name of what
        has been (0: nothing).
        """
        floats = {name: torch.zeros(n_lanes, self.options.n_neurons, dtype=torch.float64) for name in _FLOATS}
        step, history = torch.zeros(n_lanes, dtype=torch.int64), torch.zeros(n_lanes, 16, dtype=torch.uint8)
        return {**floats, "step": step, "history": history}

    def run(
        self, batch: dict[str, Any], state: CarriedState, interval: bool = False, cached: bool = True
    ) -> tuple[Tensor, Tensor, CarriedState]:
        """A trial of the batch's lanes.

        Args:
            batch: of the task.
            state: of these lanes.
            interval: whether the samples go on over the interval behind the trial, to the end of the longest lane's.
            cached: whether the cache is asked and told; not for what no other run will show.

        Returns:
            Readout traces float32 [l, T, N] in Hz, the number of spikes in each ms [S, l, 1], the state afterwards.
        """
        lanes = lanes_of(batch)
        keys = self._next_keys(batch, lanes, state["history"])
        store = self._store if cached else None
        known = [None if store is None else store.get(key) for key in keys]
        trials = [trial for trial in known if trial is not None]
        if len(trials) < len(known):
            trials = self._simulated(batch, lanes, state)
            if store is not None:
                for key, arrays in zip(keys, trials, strict=True):
                    store.put(key, arrays)
        after = {
            name: torch.stack([torch.from_numpy(trial["state"][row]) for trial in trials])
            for row, name in enumerate(_FLOATS)
        }
        after["step"] = state["step"].cpu() + batch["duration_ms"].cpu()
        after["history"] = torch.stack([torch.frombuffer(bytearray(key), dtype=torch.uint8) for key in keys])
        longest = max(batch["duration_ms"].tolist())
        samples = (longest if interval else batch["trial_ms"]) // int(self.trace.every)
        traces = torch.zeros(len(trials), samples, self.options.n_neurons)
        spikes = torch.zeros(longest, len(trials), 1)
        for row, trial in enumerate(trials):
            trace = torch.from_numpy(trial["trace"][:samples])
            traces[row, : len(trace)] = trace.float()
            spikes[: len(trial["spikes"]), row, 0] = torch.from_numpy(trial["spikes"]).float()
        return traces, spikes, after

    def recorded(self, batch: dict[str, Any], state: CarriedState) -> ReservoirActivity:
        """A trial of the batch's lanes with every spike kept."""
        lanes = lanes_of(batch)
        return self._activity(batch, lanes, self._draw(lanes), state, record=True)[0]

    def _next_keys(self, batch: dict[str, Any], lanes: range, histories: Tensor) -> list[bytes]:
        """Names of the trial's states: all that determines them, lane by lane."""
        keys, stimuli = [], batch["stimuli"].cpu()
        for row, lane in enumerate(lanes):
            history = bytes(histories[row].tolist())
            if not any(history):
                history = next_key(b"", repr((self.options, self.trace, self.seed + lane)).encode())
            shown = stimuli[stimuli[:, 0] == row, 1:].contiguous().numpy().tobytes()
            keys.append(next_key(history, int(batch["duration_ms"][row]).to_bytes(8, "little"), shown))
        return keys

    def _simulated(self, batch: dict[str, Any], lanes: range, state: CarriedState) -> list[dict[str, Any]]:
        """What is kept of each lane: `trace` float16 [T, N], `state` float64 [7, N] after the trial, `spikes` int16 [S]."""
        if self._drawn is None or self._drawn[0] != lanes:
            self._drawn = lanes, self._draw(lanes)
        activity, end = self._activity(batch, lanes, self._drawn[1], state)
        after = torch.stack([getattr(end, name) for name in _FLOATS], 1)
        return [
            {
                "trace": activity.trace[row, : steps // int(self.trace.every)].half().numpy(),
                "state": after[row].numpy(),
                "spikes": activity.n_spikes[row, :steps].to(torch.int16).numpy(),
            }
            for row, steps in enumerate(batch["duration_ms"].tolist())
        ]

    def _activity(
        self, batch: dict[str, Any], lanes: range, reservoir: Reservoir, state: CarriedState, record: bool = False
    ) -> tuple[ReservoirActivity, ReservoirState]:
        rows = batch["stimuli"].tolist()
        shown = [
            [(int(c), int(on), int(off), level) for i, c, on, off, level in rows if i == row]
            for row in range(len(lanes))
        ]
        drive = Drive.intervals(batch["duration_ms"].tolist(), self.options.n_channels, shown)
        start = initial_state(reservoir, [self.seed + lane for lane in lanes])
        step = state["step"].cpu()
        if int(step.max()):  # every lane has begun with the first trial
            carried: dict[str, Any] = {name: state[name].cpu() for name in _FLOATS}
            start = replace(start, **carried, step=step)
        return self._simulate(reservoir, drive, start, trace=self.trace, record=record, threads=self.threads)

    def _draw(self, lanes: range) -> Reservoir:
        seeds = [self.seed + lane for lane in lanes]
        return join_lanes([draw_reservoir(self.options, generator=torch.Generator().manual_seed(s)) for s in seeds])


def lanes_of(batch: dict[str, Any]) -> range:
    """Lanes of a batch: contiguous, for every process holds a slice.

    Raises:
        ValueError: if they are not.
    """
    lane = batch["lane"].tolist()
    lanes = range(lane[0], lane[0] + len(lane))
    if lane != list(lanes):
        raise ValueError(f"lane={lane} must be contiguous and ascending")
    return lanes
