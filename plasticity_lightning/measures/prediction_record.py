"""What a run of the prediction task leaves: a line per trial and lane, the probes' signals, and the scores of both.

Every trial adds what the readouts said of it *before* they learned from it and before its outcome could tell them;
probes add their whole signals. `scores`
compares with the truth phase by phase: timing, amplitude against probability, what is left off time, and how many
trials a change took. A phase without probes, a world without changes, a single outcome give NaN in what they leave
undefined.

Shapes: L lanes, T samples, K outcomes, M latencies a cue, R readouts. Source: definitions of an independent model,
docs/papers/prediction_object.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from plasticity_lightning.measures.adaptation import trials_to_adapt_probability, trials_to_adapt_timing
from plasticity_lightning.measures.prediction import (
    anticipation,
    linear_fit,
    off_time_activity,
    outcome_share,
    peak_amplitude,
    peak_time,
    prediction_object,
    timing_error,
    value_at,
)

__all__ = ["PredictionRecord", "adaptation_curves", "phase_means", "scores"]

_LAST_PROBES = 8


class PredictionRecord:
    """Lines of all trials, and signals of trials with a probe.

    Args:
        n_lanes: L of the whole run.
        n_outcomes: K.
        product: whether the prediction of an outcome is the product with the readout of time.

    State: `trials` (dict of tensors [n, L, ...]), `signals` float32 [m, L, 1 + K, T], `signal_trial` int64 [m],
        `time` [T].
    """

    def __init__(self, n_lanes: int, n_outcomes: int, product: bool) -> None:
        self.n_lanes, self.n_outcomes, self.product = n_lanes, n_outcomes, product
        self.time = torch.empty(0)
        self._lines: list[dict[str, Tensor]] = []
        self._signals: list[Tensor] = []
        self._signal_trial: list[int] = []

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, batch: Mapping[str, Any], z: Tensor, time: Tensor) -> None:
        """Add a trial of some lanes; the others stay empty (phase -2).

        Args:
            batch: of the task: `trial`, `phase`, `lane`, `cue`, `outcome`, `onset_ms`, `probe`, `latencies_ms`, see
                `PredictionTaskDataModule`.
            z: outputs [l, T, 1 + K] of these lanes with the weights from before the trial.
            time: [T].
        """
        lane, probe = batch["lane"].cpu(), batch["probe"].cpu()
        z = z.float().cpu().transpose(1, 2)
        self.time = time.cpu().float()
        latencies = batch["latencies_ms"].cpu().float()
        at = value_at(z[:, None], self.time, latencies[..., None])  # [l, M, 1 + K]
        values = {
            "phase": torch.full(lane.shape, int(batch["phase"])),
            "cue": batch["cue"].cpu(),
            "outcome": batch["outcome"].cpu(),
            "onset_ms": batch["onset_ms"].cpu().float(),
            "probe": probe,
            "peak_ms": peak_time(_foretold(z[:, 0], self.time, batch["onset_ms"].cpu()), self.time),
            "when": at[..., 0],
            "share": torch.where(latencies[..., None].isnan(), torch.nan, outcome_share(at[..., 1:])),
        }
        line = {}
        for name, value in values.items():
            whole = value.new_zeros(self.n_lanes, *value.shape[1:])
            if name == "phase":
                whole -= 2
            whole[lane] = value
            line[name] = whole
        self._lines.append(line)
        if bool(probe.any()):
            whole = z.new_zeros(self.n_lanes, *z.shape[1:])
            whole[lane] = z
            self._signals.append(whole)
            self._signal_trial.append(len(self._lines) - 1)

    @property
    def trials(self) -> dict[str, Tensor]:
        """All lines as tensors [n, L, ...]."""
        if not self._lines:
            return {}
        return {name: torch.stack([line[name] for line in self._lines]) for name in self._lines[0]}

    def trials_line(self, k: int) -> dict[str, Tensor]:
        """The line of trial k, tensors [L, ...]."""
        return self._lines[k]

    @property
    def signals(self) -> Tensor:
        """Outputs in trials with a probe [m, L, 1 + K, T]; lanes whose trial was no probe are included."""
        shape = (0, self.n_lanes, 1 + self.n_outcomes, len(self.time))
        return torch.stack(self._signals) if self._signals else torch.empty(shape)

    @property
    def signal_trial(self) -> Tensor:
        """Which trial each of `signals` is, int64 [m]."""
        return torch.tensor(self._signal_trial, dtype=torch.int64)

    def predictions(self, z: Tensor) -> Tensor:
        """P_k(t) [..., K, T] of outputs [..., 1 + K, T]."""
        if self.product:
            return prediction_object(z[..., 0, :], z[..., 1:, :])
        return z[..., 1:, :].clamp(min=0)

    def lane_tensors(self) -> list[Tensor]:
        """All state with lanes, as views that can be written, with lanes in front.

        For the exchange between processes.
        """
        lines = [value for line in self._lines for value in line.values()]
        return lines + self._signals

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors."""
        return {
            "trials": self.trials,
            "signals": self.signals,
            "signal_trial": self.signal_trial,
            "time": self.time,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up again."""
        trials = state["trials"]
        n = len(next(iter(trials.values()))) if trials else 0
        self._lines = [{name: value[i].clone() for name, value in trials.items()} for i in range(n)]
        self._signals = [signal.clone() for signal in state["signals"]]
        self._signal_trial = state["signal_trial"].tolist()
        self.time = state["time"]


def _foretold(signal: Tensor, time: Tensor, onset: Tensor) -> Tensor:
    """Signals [l, T] without what follows the outcome.

    Later samples get the smallest value before, so that no peak lies there.
    """
    late = (onset[:, None] >= 0) & (time > onset[:, None])
    lowest = torch.where(late, torch.inf, signal).amin(1, keepdim=True)
    return torch.where(late, lowest, signal)


def phase_means(
    record: PredictionRecord, lane: int, phase: int, cue: int, last: int = _LAST_PROBES
) -> tuple[Tensor, Tensor]:
    """Signals [m, 1 + K, T] of a cue's last probes in a phase, and the mean P_k(t) [K, T] (NaN without a probe)."""
    trials, chosen = record.trials, []
    for row, k in enumerate(record.signal_trial.tolist()):
        same = int(trials["phase"][k, lane]) == phase and int(trials["cue"][k, lane]) == cue
        if same and bool(trials["probe"][k, lane]):
            chosen.append(row)
    z = record.signals[torch.tensor(chosen[-last:], dtype=torch.int64), lane]
    return z, record.predictions(z.mean(0)) if len(z) else torch.full(z.shape[1:], torch.nan)[1:]


def scores(record: PredictionRecord, truth: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All scores, each float64 [L].

    `timing_error_ms`, `anticipation_ms`, `r`, `r_worst` (over phases), `slope`, `intercept`, `off_time`, `ghost`,
    `trials_to_timing`,
    `trials_to_probability`.

    Args:
        record: of the run.
        truth: `latencies_ms`, `latency_probability` [P, C, M], `outcome_probability` [P, C, K], `event_probability`,
            `learned` [P, C].
    """
    n_phases, n_cues, _ = truth["latencies_ms"].shape
    rows: list[dict[str, Tensor]] = []
    for lane in range(record.n_lanes):
        phases = [_phase_scores(record, truth, lane, phase, n_cues) for phase in range(n_phases)]
        merged = {name: torch.stack([p[name] for p in phases]) for name in phases[0]}
        row = {name: value.nanmean() for name, value in merged.items()}
        seen = merged["r"][~merged["r"].isnan()]
        row["r_worst"] = seen.min() if len(seen) else merged["r"].new_tensor(torch.nan)
        rows.append(row)
    curves = adaptation_curves(record, truth)
    result = {name: torch.stack([row[name] for row in rows]).double() for name in rows[0]}
    for kind in ("timing", "probability"):
        taken = [curve["trials"] for curve in curves if curve["kind"] == kind]
        worst = torch.stack(taken).amax(0) if taken else torch.full((record.n_lanes,), torch.nan, dtype=torch.float64)
        result[f"trials_to_{kind}"] = worst
    return result


def adaptation_curves(record: PredictionRecord, truth: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """One entry a change of a cue.

    `kind` ("timing" or "probability"), `phase`, `cue`, `target`, `curve` [L, n] over the learning trials of the
    cue in the new phase (|timing error| in ms, or the share of the outcome whose probability changed most), `trials`
    to adapt [L].
    """
    trials, found = record.trials, []
    n_phases, n_cues, _ = truth["latencies_ms"].shape
    for phase in range(1, n_phases):
        for cue in range(n_cues):
            if not trials or not bool(truth["learned"][phase, cue]):
                continue
            old, new = (truth["latencies_ms"][p, cue] for p in (phase - 1, phase))
            if not torch.equal(old.nan_to_num(-1), new.nan_to_num(-1)):
                errors = _per_lane(
                    trials, phase, cue, (trials["peak_ms"][..., None] - new).abs().nan_to_num(torch.inf).amin(-1)
                )
                entry = {"kind": "timing", "target": 0.0, "curve": errors, "trials": trials_to_adapt_timing(errors)}
                found.append({**entry, "phase": phase, "cue": cue})
            before, after = (truth["outcome_probability"][p, cue] for p in (phase - 1, phase))
            if not torch.equal(before, after):
                k = int((after - before).abs().argmax())
                share = _per_lane(trials, phase, cue, trials["share"][:, :, 0, k])
                target = after[k].expand(record.n_lanes)
                entry = {"kind": "probability", "target": float(after[k]), "curve": share}
                entry["trials"] = trials_to_adapt_probability(share, target)
                found.append({**entry, "phase": phase, "cue": cue})
    return found


def _per_lane(trials: dict[str, Tensor], phase: int, cue: int, values: Tensor) -> Tensor:
    """Values [n, L] of the learning trials of a cue in a phase, in order, [L, m]; NaN behind a lane's last."""
    chosen = (trials["phase"] == phase) & (trials["cue"] == cue) & ~trials["probe"]
    lanes = [values[chosen[:, lane], lane] for lane in range(values.shape[1])]
    return torch.nn.utils.rnn.pad_sequence(lanes, batch_first=True, padding_value=torch.nan)


def _phase_scores(
    record: PredictionRecord, truth: Mapping[str, Tensor], lane: int, phase: int, n_cues: int
) -> dict[str, Tensor]:
    time, nan = record.time, torch.tensor(torch.nan)
    amplitudes, expected, errors, ahead, off, ghost = [], [], [], [], [], []
    for cue in range(n_cues):
        if not bool(truth["learned"][phase, cue]):
            continue
        latencies, weight = truth["latencies_ms"][phase, cue], truth["latency_probability"][phase, cue]
        z, p = phase_means(record, lane, phase, cue)
        if not len(z):
            continue
        comes = truth["event_probability"][phase, cue] * truth["outcome_probability"][phase, cue]
        errors.append(timing_error(peak_time(z[:, 0], time), latencies.expand(len(z), -1)))
        ahead.append(anticipation(z[:, 0].mean(0), time, latencies[0]))
        off.append(off_time_activity(p, time, latencies).max())
        for latency, q in zip(latencies, weight, strict=True):
            if not bool(latency.isnan()):
                amplitudes.append(peak_amplitude(p, time, latency))
                expected.append(comes * q)
        if phase > 0 and not torch.equal(
            truth["latencies_ms"][phase - 1, cue].nan_to_num(-1), latencies.nan_to_num(-1)
        ):
            ghost.append(value_at(z[:, 0].mean(0), time, truth["latencies_ms"][phase - 1, cue, 0]))
    fit = linear_fit(torch.cat(expected), torch.cat(amplitudes)) if amplitudes else (nan, nan, nan)

    def mean(values: list[Tensor]) -> Tensor:
        return torch.stack(values).nanmean() if values else nan

    return {
        "timing_error_ms": mean(errors).double(),
        "anticipation_ms": mean(ahead).double(),
        "r": fit[0].double(),
        "slope": fit[1].double(),
        "intercept": fit[2].double(),
        "off_time": mean(off).double(),
        "ghost": mean(ghost).double(),
    }
