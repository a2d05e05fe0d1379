"""What a liquid does, in TensorBoard: branching factor, firing rates, weights by synapse type, a raster and the network in 3-D.

Works on any LightningModule that offers `protocols.HasLiquid`. It records a few validation items with every spike kept at the end of
each epoch that has changed the weights, once a validation batch has been seen. Rank 0 alone records and reports, from its own items.
"""

from __future__ import annotations

import hashlib
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from plasticity_lightning.measures.spiking import branching_factor, silent, synchrony
from plasticity_lightning.protocols import CoverageRow, HasLiquid
from plasticity_lightning.runtime.coverage import announce_coverage
from plasticity_lightning.runtime.lightning_classes import is_lightning
from plasticity_lightning.spiking.encoding import SpikeTrains
from plasticity_lightning.spiking.liquid.contract import LiquidActivity
from plasticity_lightning.spiking.liquid.item_batches import spaced_items
from plasticity_lightning.spiking.liquid.topology import Liquid

__all__ = ["LiquidMonitor", "liquid_measures"]


class LiquidMonitor(Callback):
    """Logs the state of a liquid at the end of each epoch that changed its weights.

    Args:
        n_items: validation items recorded, evenly spaced over the first validation batch, at least 1. The batch is a dict with `label`,
            `index` and `image` or `events`, see `spiking.item_batches`.

    State: a digest of the weights last reported on, so that a resumed run does not report on them again, and the recorded items.

    Logs:
        `liquid/branching_factor`, `liquid/synchrony`, `liquid/silent_fraction`; in TensorBoard also histograms `weights/<type>` and
        `liquid/firing_rate_hz`, and the figures `liquid/raster`, `liquid/network`, `liquid/modulation`.

    Raises:
        ValueError: if n_items is below 1.
        MisconfigurationException: at setup, if the module offers no liquid.
    """

    def __init__(self, n_items: int = 20) -> None:
        if n_items < 1:
            raise ValueError(f"n_items={n_items} must be at least 1")
        self.n_items = n_items
        self._reported: str | None = None
        self._batch: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        """One key per number of items."""
        return self._generate_state_key(n_items=self.n_items)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a module without a liquid."""
        if stage == "fit":
            announce_coverage(trainer)
        if not isinstance(pl_module, HasLiquid):
            raise MisconfigurationException(
                f"LiquidMonitor needs a module with `liquid`, `weight` and `record(batch)`; {type(pl_module).__name__} lacks some of them"
            )

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep some items of the first validation batch for recording."""
        if self._batch is None and batch_idx == 0 and trainer.is_global_zero and not trainer.sanity_checking:
            self._batch = spaced_items(batch, self.n_items)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report if the weights have changed since the last report."""
        if self._batch is None:  # nothing validated yet, or not rank 0
            return
        digest = _digest(cast(Tensor, pl_module.weight))
        if digest != self._reported:
            self._reported = digest
            activity = cast(HasLiquid, pl_module).record(self._batch)
            values = liquid_measures(cast(HasLiquid, pl_module).liquid, activity)
            for name, value in values.items():
                pl_module.log(f"liquid/{name}", value, rank_zero_only=True, batch_size=1)
            for logger in trainer.loggers:
                if is_lightning(logger, "TensorBoardLogger"):
                    _draw(logger.experiment, pl_module, activity, trainer.fit_loop.total_batch_idx)

    def coverage(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[CoverageRow]:
        """The liquid."""
        how = f"{self.n_items} validation items, after each epoch that changed its weights"
        return [CoverageRow("LiquidMonitor", "liquid", "watched", how)]

    def state_dict(self) -> dict[str, Any]:
        """What was reported on last, and the items."""
        kept = {k: vars(v) if isinstance(v, SpikeTrains) else v for k, v in (self._batch or {}).items()}
        return {"reported": self._reported, "items": kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
        self._reported = state_dict["reported"]
        kept = state_dict["items"]
        self._batch = {k: SpikeTrains(**v) if isinstance(v, dict) else v for k, v in kept.items()} or None

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of the recorded items."""
        self._batch = None


def liquid_measures(liquid: Liquid, activity: LiquidActivity) -> dict[str, float]:
    """Branching factor, synchrony and silent fraction of a recorded batch, means over its items.

    Args:
        liquid: the network.
        activity: of B items, with spikes recorded.

    Returns:
        Values by name; one that is undefined, because nothing fired or the recording is too short, is left out.
    """
    spikes = activity.spikes
    assert spikes is not None
    source, target = liquid.recurrent_edges()
    n_steps = spikes.shape[1]
    values = {
        "silent_fraction": float(silent(activity.counts)),
        "synchrony": float(torch.stack([synchrony(s) for s in spikes]).nanmean()),
    }
    start, stop = n_steps // 10, n_steps - n_steps // 10  # 25 and 225 of the paper's 250 ms
    if stop - start > 8:
        values["branching_factor"] = float(
            torch.stack([branching_factor(s, source, target, start, stop) for s in spikes]).nanmean()
        )
    return {name: value for name, value in values.items() if value == value}


def _digest(weight: Tensor) -> str:
    return hashlib.sha256(weight.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def _draw(experiment: Any, pl_module: Any, activity: LiquidActivity, step: int) -> None:
    assert activity.spikes is not None
    from plasticity_lightning.viz import liquid_3d, modulation_trace, raster_plot  # matplotlib is slow to import

    liquid = pl_module.liquid
    source, target = liquid.recurrent_edges()
    for name, mask in liquid.edge_types().items():
        if bool(mask.any()):
            experiment.add_histogram(f"weights/{name}", pl_module.weight.detach().cpu()[mask], step)
    rate = activity.counts.double().mean(0) * 1000.0 / activity.n_liquid.shape[1]
    experiment.add_histogram("liquid/firing_rate_hz", rate, step)
    experiment.add_figure("liquid/raster", raster_plot(activity.spikes[0], liquid.n_excitatory), step)
    experiment.add_figure("liquid/network", liquid_3d(liquid.positions, liquid.n_excitatory, source, target), step)
    if bool(activity.modulation.any()):
        experiment.add_figure("liquid/modulation", modulation_trace(activity.modulation), step)
