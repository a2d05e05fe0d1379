"""Trials in which a cue announces what comes next, when, and with what probability.

Each of the three is set on its own.

A trial is a baseline, a cue, an outcome at a latency that the cue tells (or none), the rest of the window, and an
interval before the next one. Phases change latencies or probabilities. Trial k of a lane is a function of (seed,
lane, k) alone: nothing is stored, a protocol may have any length, and a run resumes at any trial. Lanes are
independent repetitions with seeds of their own; a batch is one trial of every lane.

Source: an independent task with the controls that Yamada & Chao (arXiv 2510.14382) name; see
docs/papers/prediction_object.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.data.prediction_world import STANDARD, Cue, Phase, check_phases, truth_of
from plasticity_lightning.data.tasks.task_stream import named_generator
from plasticity_lightning.runtime.loaders import ResumableDataLoader, SeededSampler

__all__ = ["PredictionTaskDataModule", "lanes_of_rank"]


class PredictionTaskDataModule(LightningDataModule):
    """One trial of every lane a batch.

    A batch is a dict. For the trial: `trial`, `phase` (-1 in the lead-in), `lead_in`, `time_zero_ms` (cue onset after
    the trial's start), `window_ms`,
    `trial_ms` (length without the interval). For each lane [L]: `lane`, `cue`, `outcome` (-1: none), `onset_ms` after
    cue onset (-1: none), `probe`,
    `duration_ms` (trial and interval); `latencies_ms` [L, M] and `latency_probability` [L, M] (NaN and 0 behind the
    last), `outcome_probability` [L, K] and `event_probability` [L] are the truth for scoring. `stimuli` float64 [E,
    5] has rows (position of the lane in the batch, channel, on, off in ms after the trial's start, level).

    Channels are the cues, then the outcomes, then the distractors.

    Args:
        phases: the protocol; None is the standard one of three phases: latencies 300, 500, 700 ms and P(A) 0.8, 0.5,
            0.2; then cue 0 moves to 600 ms; then to P(A) = 0.2.
        lanes: number of lanes, at least 1; lane l has the seed `seed + l`.
        seed: at least 0.
        lead_in_blocks: mini-blocks of phase 0 before the protocol, for homeostasis, without learning.
        probe_every: every so many-th mini-block of the protocol is a probe, cue only; 0 gives none.
        urn: outcomes of a cue come from an urn of so many trials, which holds every event in exact proportion; 0
            draws independently.
        baseline_ms: before the cue, a multiple of 5.
        stimulus_ms: length of cue and outcome.
        window_ms: in which outcomes come, after cue onset.
        trial_ms: end of the trial after cue onset, a multiple of 5.
        interval_ms: shortest and longest interval between trials; drawn uniformly in steps of 5.
        outcome_level: level of the outcome's stimulus; 0: outcomes do not drive the reservoir.
        latency_jitter_ms: standard deviation of the onset around its latency; held within the window.
        level_noise: standard deviation of every stimulus's level around its own, in shares of it.
        distractors: mean number of distractors a trial (Poisson), at random times on random channels of their own.
        distractor_channels: how many, at least 1 if there are distractors.
        probe_blocks: mini-blocks of probes for validation and prediction, at least 1.

    State: the phase that training had come to when a checkpoint was written: its world is the one of the probes.

    Raises:
        DataArgumentError: if an argument is out of range, or phases differ in their numbers of cues or outcomes.
    """

    in_memory: ClassVar[bool] = True  # made as they are asked for: worker processes would only cost

    def __init__(
        self,
        phases: list[Phase] | None = None,
        lanes: int = 1,
        seed: int = 0,
        lead_in_blocks: int = 7,
        probe_every: int = 7,
        urn: int = 10,
        baseline_ms: int = 100,
        stimulus_ms: int = 50,
        window_ms: int = 1000,
        trial_ms: int = 1200,
        interval_ms: tuple[int, int] = (300, 700),
        outcome_level: float = 1.0,
        latency_jitter_ms: float = 0.0,
        level_noise: float = 0.0,
        distractors: float = 0.0,
        distractor_channels: int = 0,
        probe_blocks: int = 8,
    ) -> None:
        super().__init__()
        self.phases = list(STANDARD) if phases is None else list(phases)
        least = {
            "lanes": (lanes, 1),
            "seed": (seed, 0),
            "lead_in_blocks": (lead_in_blocks, 0),
            "probe_every": (probe_every, 0),
            "urn": (urn, 0),
            "baseline_ms": (baseline_ms, 0),
            "stimulus_ms": (stimulus_ms, 1),
            "window_ms": (window_ms, 1),
            "outcome_level": (outcome_level, 0),
            "latency_jitter_ms": (latency_jitter_ms, 0),
            "level_noise": (level_noise, 0),
            "distractors": (distractors, 0),
            "distractor_channels": (distractor_channels, int(distractors > 0)),
            "probe_blocks": (probe_blocks, 1),
        }
        for name, (value, low) in least.items():
            if not value >= low:
                raise DataArgumentError(f"{name}={value}: must be at least {low}.")
        if probe_every == 1:
            raise DataArgumentError(
                "probe_every=1: every block would be a probe and nothing learned; 0 gives no probes."
            )
        if trial_ms < window_ms:
            raise DataArgumentError(f"trial_ms={trial_ms}: must be at least window_ms={window_ms}.")
        if baseline_ms % 5 or trial_ms % 5:
            raise DataArgumentError(f"baseline_ms={baseline_ms} and trial_ms={trial_ms}: must be multiples of 5.")
        low_ms, high_ms = interval_ms
        if not 0 <= low_ms <= high_ms or low_ms % 5 or high_ms % 5:
            raise DataArgumentError(f"interval_ms={interval_ms}: must be two ascending multiples of 5 from 0.")
        self.lanes, self.seed, self.lead_in_blocks, self.probe_every, self.urn = (
            lanes,
            seed,
            lead_in_blocks,
            probe_every,
            urn,
        )
        self.baseline_ms, self.stimulus_ms, self.window_ms, self.trial_ms = (
            baseline_ms,
            stimulus_ms,
            window_ms,
            trial_ms,
        )
        self.interval_ms, self.outcome_level, self.latency_jitter_ms = interval_ms, outcome_level, latency_jitter_ms
        self.level_noise, self.distractors, self.distractor_channels = level_noise, distractors, distractor_channels
        check_phases(self.phases, window_ms, urn)
        self.probe_blocks = probe_blocks
        self._kept_phase = len(self.phases) - 1
        self.n_cues, self.n_outcomes = len(self.phases[0].cues), len(self.phases[0].cues[0].outcomes)
        self.n_channels = self.n_cues + self.n_outcomes + distractor_channels
        self._starts = [lead_in_blocks]  # first block of each phase, then the end
        for phase in self.phases:
            self._starts.append(self._starts[-1] + phase.blocks)

    @property
    def n_trials(self) -> int:
        """Trials of the whole protocol, the lead-in included: an epoch of the Trainer."""
        return self._starts[-1] * self.n_cues

    def trial(self, k: int, lanes: Sequence[int] | None = None) -> dict[str, Any]:
        """The batch of trial k, from 0, for these lanes (all by default).

        Raises:
            DataArgumentError: if the protocol has no such trial or lane.
        """
        if not 0 <= k < self.n_trials:
            raise DataArgumentError(f"trial {k}: the protocol has trials 0 to {self.n_trials - 1}.")
        return self._batch(k, lanes, self._phase_of(k), probe=False)

    def probe(self, k: int, lanes: Sequence[int] | None = None) -> dict[str, Any]:
        """The batch of probe k, from 0, for these lanes (all by default): a cue of the present world, and no outcome.

        Its random draws are no trial's; several probes go on from each other as trials do.

        Raises:
            DataArgumentError: if there is no such probe or lane.
        """
        if not 0 <= k < self.probe_blocks * self.n_cues:
            raise DataArgumentError(f"probe {k}: there are probes 0 to {self.probe_blocks * self.n_cues - 1}.")
        return self._batch(self.n_trials + k, lanes, self.present_phase, probe=True)

    @property
    def present_phase(self) -> int:
        """That of the last trained trial or of the loaded checkpoint; before any, the last one."""
        trained = -1 if self.trainer is None else self.trainer.fit_loop.total_batch_idx
        return self._kept_phase if trained < 0 else max(0, self._phase_of(trained))

    def state_dict(self) -> dict[str, Any]:
        """The present phase."""
        return {"phase": self.present_phase}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
        self._kept_phase = min(state_dict["phase"], len(self.phases) - 1)

    def truth(self) -> dict[str, Tensor]:
        """What each cue of each phase announces.

        `latencies_ms`, `latency_probability` [P, C, M], `outcome_probability` [P, C, K],
        `event_probability`, `learned` [P, C]; `blocks` [P].
        """
        n_latencies = max(len(c.latencies_ms) for p in self.phases for c in p.cues)
        tables = [truth_of(phase.cues, n_latencies) for phase in self.phases]
        return {
            **{name: torch.stack([table[name] for table in tables]) for name in tables[0]},
            "learned": torch.tensor([[cue.learned for cue in phase.cues] for phase in self.phases]),
            "blocks": torch.tensor([phase.blocks for phase in self.phases]),
        }

    def train_dataloader(self) -> DataLoader[Any]:
        """All trials in order; every process gets its lanes of each."""
        return self._loader(self.trial, self.n_trials)

    def val_dataloader(self) -> DataLoader[Any]:
        """Probes of the world that training has come to, in order."""
        return self._loader(self.probe, self.probe_blocks * self.n_cues)

    predict_dataloader = val_dataloader

    def test_dataloader(self) -> DataLoader[Any]:
        """One batch: `truth()`, against which a module scores what it recorded."""
        return DataLoader([self.truth()], batch_size=None)  # type: ignore[arg-type] # a list is a map-style data set

    # private

    def _loader(self, trial: Callable[[int, Sequence[int]], dict[str, Any]], n: int) -> DataLoader[Any]:
        return ResumableDataLoader(
            _Trials(trial, self.lanes, n), batch_size=1, sampler=_InOrder(n), collate_fn=_unchanged
        )

    def _phase_of(self, k: int) -> int:
        """Phase of a trial, -1 in the lead-in; behind the end the last one."""
        block = k // self.n_cues
        return next((i for i, end in enumerate(self._starts) if block < end), len(self.phases)) - 1

    def _batch(self, k: int, lanes: Sequence[int] | None, phase: int, probe: bool) -> dict[str, Any]:
        lanes = range(self.lanes) if lanes is None else lanes
        if not lanes or min(lanes) < 0 or max(lanes) >= self.lanes:
            raise DataArgumentError(f"lanes {list(lanes)}: must lie in 0 to {self.lanes - 1}.")
        block, position = divmod(k, self.n_cues)
        drawn = [self._lane_trial(lane, k, block, position, phase, probe) for lane in lanes]
        n_latencies = max(len(c.latencies_ms) for p in self.phases for c in p.cues)
        return {
            "trial": k,
            "phase": phase,
            "lead_in": phase < 0,
            "time_zero_ms": self.baseline_ms,
            "window_ms": self.window_ms,
            "trial_ms": self.baseline_ms + self.trial_ms,
            "lane": torch.tensor(list(lanes)),
            **{
                name: torch.tensor([d[name] for d in drawn])
                for name in ("cue", "outcome", "onset_ms", "probe", "duration_ms")
            },
            **truth_of([d["truth"] for d in drawn], n_latencies),
            "stimuli": torch.tensor(
                [(i, *row) for i, d in enumerate(drawn) for row in d["stimuli"]], dtype=torch.float64
            ).reshape(-1, 5),
        }

    def _lane_trial(self, lane: int, k: int, block: int, position: int, phase: int, probe: bool) -> dict[str, Any]:
        seed = self.seed + lane
        order = torch.randperm(self.n_cues, generator=named_generator("cue order", seed, block))
        number = int(order[position])
        world = max(phase, 0)
        cue = self.phases[world].cues[number]
        within = block - (self._starts[phase] if phase >= 0 else 0)
        lead_in = phase < 0
        scheduled = not lead_in and self.probe_every > 0 and within % self.probe_every == self.probe_every - 1
        probe = probe or scheduled or not cue.learned
        draws = named_generator("trial", seed, k)
        low, high = (ms // 5 for ms in self.interval_ms)
        interval = 5 * int(torch.randint(low, high + 1, (), generator=draws))
        stimuli: list[tuple[float, ...]] = []
        channels = [number] if cue.channels is None else cue.channels
        stimuli += [self._stimulus(c, 0.0, 1.0, draws) for c in channels]
        event = None if probe else self._event(cue, seed, phase, number, within)
        outcome, onset = -1, -1.0
        if event is not None:
            outcome, onset = event[0], cue.latencies_ms[event[1]]
            if self.latency_jitter_ms:
                onset += self.latency_jitter_ms * float(torch.randn((), generator=draws))
                onset = float(min(max(round(onset), 1), self.window_ms - 1))
            if self.outcome_level:
                stimuli.append(self._stimulus(self.n_cues + outcome, onset, self.outcome_level, draws))
        if self.distractors:
            n = int(torch.poisson(torch.tensor(self.distractors), generator=draws))
            for _ in range(n):
                channel = int(torch.randint(self.distractor_channels, (), generator=draws))
                at = float(torch.randint(-self.baseline_ms, self.trial_ms, (), generator=draws))
                stimuli.append(self._stimulus(self.n_cues + self.n_outcomes + channel, at, 1.0, draws))
        return {
            "cue": number,
            "outcome": outcome,
            "onset_ms": float(onset),
            "probe": probe,
            "duration_ms": self.baseline_ms + self.trial_ms + interval,
            "truth": cue,
            "stimuli": stimuli,
        }

    def _stimulus(self, channel: int, onset: float, level: float, draws: torch.Generator) -> tuple[float, ...]:
        if self.level_noise:
            level *= max(0.0, 1 + self.level_noise * float(torch.randn((), generator=draws)))
        start = self.baseline_ms + round(onset)
        return channel, start, start + self.stimulus_ms, level

    def _event(self, cue: Cue, seed: int, phase: int, number: int, within: int) -> tuple[int, int] | None:
        """(outcome, latency index) of the learning trial in the `within`-th block of a phase, None for an omission."""
        events = cue.events()
        drawn = within - (
            within // self.probe_every if self.probe_every and phase >= 0 else 0
        )  # blocks before it that were no probes
        if not self.urn:
            u = float(torch.rand((), generator=named_generator("event", seed, phase, number, drawn)))
            for outcome, latency, probability in events:
                u -= probability
                if u < 0:
                    return outcome, latency
            return None
        balls: list[tuple[int, int] | None] = []
        for outcome, latency, probability in events:
            balls += [(outcome, latency)] * round(self.urn * probability)
        balls += [None] * (self.urn - len(balls))
        filling = named_generator("urn", seed, phase, number, drawn // self.urn)
        return balls[int(torch.randperm(self.urn, generator=filling)[drawn % self.urn])]


def lanes_of_rank(lanes: int, rank: int, world: int) -> range:
    """The lanes of one of `world` processes: contiguous, their numbers differing by one at most.

    Raises:
        DataArgumentError: if there are fewer lanes than processes.
    """
    if lanes < world:
        raise DataArgumentError(f"lanes={lanes}: must be at least the number of processes, {world}.")
    return range(rank * lanes // world, (rank + 1) * lanes // world)


class _InOrder(SeededSampler):
    """0, 1, 2, ... for every process, none of them held in memory."""

    def __init__(self, length: int) -> None:
        super().__init__(length, shuffle=False)

    def __iter__(self) -> Iterator[int]:
        start, self.start = self.start, 0
        return iter(range(start, self.length))

    def __len__(self) -> int:
        return self.length


class _Trials(Dataset[Any]):
    """Draws a trial for the lanes of this process."""

    def __init__(self, trial: Callable[[int, Sequence[int]], dict[str, Any]], lanes: int, length: int) -> None:
        self.trial, self.lanes, self.length = trial, lanes, length

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, trials: list[int]) -> dict[str, Any]:
        rank, world = 0, 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        return self.trial(trials[0], lanes_of_rank(self.lanes, rank, world))


def _unchanged(batch: Any) -> Any:
    return batch
