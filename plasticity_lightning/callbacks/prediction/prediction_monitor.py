"""What a prediction looks like, in TensorBoard and in the run's folder.

Figures at the end of training, from what was recorded.

Works on any module that offers `protocols.HasPrediction`, with a data module that offers `truth()`. Rank 0 alone
draws. The figures are those of
`viz.prediction`; `figures/*.png` lies in the run's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from plasticity_lightning.measures.prediction import linear_fit, peak_amplitude
from plasticity_lightning.measures.prediction_record import PredictionRecord, adaptation_curves, phase_means
from plasticity_lightning.protocols import CoverageRow, HasPrediction
from plasticity_lightning.runtime.coverage import announce_coverage
from plasticity_lightning.runtime.exact_loops import left

__all__ = ["PredictionMonitor", "prediction_figures"]


class PredictionMonitor(Callback):
    """Draws raster, readouts, probabilities, the fit of amplitudes and the adaptation curves when training ends.

    Args:
        lane: whose raster, readouts and probabilities are drawn, at least 0; fit and curves are over all lanes.
        outcomes: names of the outcomes; None is A, B, C, ...
        raster: whether a last trial is simulated for the raster; the module's state does not move.

    State: none: everything is drawn from the module's record.

    Raises:
        ValueError: if lane is negative.
        MisconfigurationException: at setup, if the module offers no prediction, the data no truth, or there is no
            such lane.
    """

    def __init__(self, lane: int = 0, outcomes: list[str] | None = None, raster: bool = True) -> None:
        if lane < 0:
            raise ValueError(f"lane={lane} must be at least 0")
        self.lane, self.outcomes, self.raster = lane, outcomes, raster

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be drawn."""
        if not isinstance(pl_module, HasPrediction):
            raise MisconfigurationException(
                f"PredictionMonitor needs a module with what `protocols.HasPrediction` lists; {type(pl_module).__name__} lacks some of it"
            )
        if not hasattr(getattr(trainer, "datamodule", None), "truth"):
            raise MisconfigurationException(
                "PredictionMonitor needs a data module with `truth()`, as PredictionTaskDataModule has"
            )
        if self.lane >= len(pl_module.readout_weight):
            raise MisconfigurationException(
                f"lane={self.lane}: the module has lanes 0 to {len(pl_module.readout_weight) - 1}"
            )
        if self.outcomes is not None and len(self.outcomes) != pl_module.n_outcomes:
            raise MisconfigurationException(
                f"outcomes={self.outcomes} must name the module's {pl_module.n_outcomes} outcomes"
            )
        if stage == "fit":
            announce_coverage(trainer)

    def coverage(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[CoverageRow]:
        """What it draws."""
        rows = [CoverageRow("PredictionMonitor", "record", "drawn", f"lane {self.lane}, when training ends")]
        if self.raster:
            reason = "a trial simulated for the raster when training ends"
            rows.append(CoverageRow("PredictionMonitor", "recorded_spikes", "drawn", reason))
        return rows

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw once the module has brought its lanes together, unless the run is only left for a while."""
        if left(trainer):
            return
        module = cast(HasPrediction, pl_module)
        exchange = getattr(pl_module, "exchange", None)  # callbacks come before the module's own hook
        if exchange is not None:
            exchange()
        if not trainer.is_global_zero or not len(module.record):
            return
        data = cast(Any, trainer).datamodule
        figures = prediction_figures(
            module.record, data.truth(), self.lane, self.outcomes or _letters(module.n_outcomes)
        )
        batch = self._trial(data, module.record) if self.raster else None
        if batch is not None:
            figures["raster"] = _raster(module, batch)
        step = trainer.fit_loop.total_batch_idx
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, figure in figures.items():
                    logger.experiment.add_figure(f"prediction/{name}", figure, step)
                folder = Path(logger.log_dir) / "figures"
                folder.mkdir(parents=True, exist_ok=True)
                for name, figure in figures.items():
                    figure.savefig(folder / f"{name}.png")

    def _trial(self, data: Any, record: PredictionRecord) -> dict[str, Any] | None:
        """The last trial of the record's lane that had an outcome; None if there was none."""
        had = (record.trials["outcome"][:, self.lane] >= 0).nonzero()
        return data.trial(int(had[-1]), [self.lane]) if len(had) else None


def prediction_figures(
    record: PredictionRecord, truth: dict[str, Tensor], lane: int, names: list[str]
) -> dict[str, Any]:
    """Figures by name: `readouts`, `probabilities`, `amplitudes`, `adaptation`.

    Those of which nothing was recorded are left out.

    Args:
        record: of the run.
        truth: of the data, see `measures.prediction_record.scores`.
        lane: for readouts and probabilities.
        names: of the outcomes.
    """
    from plasticity_lightning import viz  # matplotlib is slow to import

    figures: dict[str, Any] = {}
    n_phases, n_cues, _ = truth["latencies_ms"].shape
    panels = {}
    points: list[tuple[Tensor, Tensor]] = []
    for phase in range(n_phases):
        for cue in range(n_cues):
            z, p = phase_means(record, lane, phase, cue)
            latency = truth["latencies_ms"][phase, cue, 0]
            if len(z):
                panels[f"phase {phase}, cue {cue}"] = (z[:, 0].mean(0), p, float(latency))
            for other in range(record.n_lanes):
                z, p = phase_means(record, other, phase, cue)
                if len(z) and bool(truth["learned"][phase, cue]):
                    comes = truth["event_probability"][phase, cue] * truth["latency_probability"][phase, cue, 0]
                    points.append(
                        (comes * truth["outcome_probability"][phase, cue], peak_amplitude(p, record.time, latency))
                    )
    if panels:
        figures["readouts"] = viz.aligned_readouts(record.time, panels, names)
    if points:
        x, y = (torch.cat(part) for part in zip(*points, strict=True))
        figures["amplitudes"] = viz.amplitude_against_probability(x, y, *(float(v) for v in linear_fit(x, y)))
    shares = {f"cue {cue}": entry for cue in range(n_cues) if (entry := _shares(record, truth, lane, cue)) is not None}
    if shares:
        figures["probabilities"] = viz.probability_over_time(shares, names)
    curves = {
        f"{entry['kind']}, phase {entry['phase']}, cue {entry['cue']}": (
            "|timing error| (ms)" if entry["kind"] == "timing" else "share of the outcome",
            entry["target"],
            {"this run": entry["curve"]},
        )
        for entry in adaptation_curves(record, truth)
        if entry["curve"].numel()
    }
    if curves:
        figures["adaptation"] = viz.adaptation_curves(curves)
    return figures


def _shares(
    record: PredictionRecord, truth: dict[str, Tensor], lane: int, cue: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    trials = record.trials
    mine = (trials["cue"][:, lane] == cue) & (trials["phase"][:, lane] >= 0)
    at = mine.nonzero()[:, 0]
    if not len(at):
        return None
    return at, trials["share"][at, lane, 0], truth["outcome_probability"][trials["phase"][at, lane].long(), cue]


def _raster(module: HasPrediction, batch: dict[str, Any]) -> Any:
    from plasticity_lightning import viz

    spikes = module.recorded_spikes(batch).spikes[0, : batch["trial_ms"]]
    first = batch["stimuli"][0]
    return viz.trial_raster(
        spikes, module.n_excitatory, batch["time_zero_ms"], float(batch["onset_ms"][0]), float(first[3] - first[2])
    )


def _letters(n: int) -> list[str]:
    return [chr(ord("A") + k) if k < 26 else str(k) for k in range(n)]
