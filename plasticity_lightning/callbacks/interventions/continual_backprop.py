"""Continual backpropagation: replace a few of the least useful units after every step."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from plasticity_lightning.callbacks.interventions.triggered import refuse_sharded
from plasticity_lightning.callbacks.interventions.unit_replacement import UnitWatch, replace_units
from plasticity_lightning.interventions.continual_backprop import UnitUtility
from plasticity_lightning.interventions.initialise import Initialiser, derive_seed
from plasticity_lightning.interventions.optimizer_state import Moments, check_moments
from plasticity_lightning.interventions.unit_surgery import ActivitySums, outgoing_magnitude
from plasticity_lightning.protocols import CoverageRow
from plasticity_lightning.runtime.clock import logging_due
from plasticity_lightning.runtime.coverage import announce_coverage
from plasticity_lightning.runtime.updates import UpdateCount, begins_anew
from plasticity_lightning.runtime.weight_gate import changing_weights

__all__ = ["ContinualBackprop"]


class ContinualBackprop(Callback):
    """Follows the utility of every hidden unit and replaces the least useful mature ones, a fraction `rate` a step.

    A step is a batch that ends with an optimiser step. Every batch is traced, so compiled code runs eagerly throughout;
    a convolution's unit is a channel.

    Args:
        rate: rho, fraction of the mature units of a layer that is replaced per step, in [0, 1].
        maturity: m, steps for which a new unit is safe, at least 0.
        decay: eta of the running utility and mean activation, in [0, 1).
        modules: shell patterns over the names of the layers (Linear, convolutions) whose units may be replaced.
        layers: explicit map of layers to the layers that consume their units, for networks that cannot be traced.
        moments: `zero` forgets the optimiser's moments of the touched weights, `keep` leaves them.
        init: function of a module, applied to the fresh layer from which weights are taken; an import path in YAML.
        seed: of the new weights.

    Logs:
        `intervention/continual_backprop/units`, replaced so far, every `log_every_n_steps` batches.

    Raises:
        ValueError: if an argument is out of range.
        MisconfigurationException: at setup, if a name matches nothing.

    Source: Dohare et al. 2024.
    """

    def __init__(
        self,
        rate: float = 1e-4,
        maturity: int = 100,
        decay: float = 0.99,
        modules: str | list[str] = "*",
        layers: dict[str, list[str]] | None = None,
        moments: Moments = "zero",
        init: Initialiser | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate={rate} must be in [0, 1]")
        if maturity < 0:
            raise ValueError(f"maturity={maturity} must not be negative")
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must be in [0, 1)")
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative")
        check_moments(moments)
        self.rate, self.maturity, self.decay = rate, maturity, decay
        self.moments, self.init, self.seed = moments, init, seed
        self.replaced = 0
        self._patterns = [modules] if isinstance(modules, str) else list(modules)
        self._layers = layers
        self._watch = UnitWatch(self._patterns, layers, "ContinualBackprop", init)
        self._activity = ActivitySums(signed=True)
        self._utilities: dict[str, UnitUtility] = {}
        self._count = UpdateCount()

    @property
    def state_key(self) -> str:
        """One key per choice of layers."""
        return self._generate_state_key(modules=self._patterns, layers=self._layers)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the names and the strategy."""
        refuse_sharded(trainer, type(self).__name__)
        if stage == "fit":
            self._watch.check(pl_module)
            announce_coverage(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Watch the batch."""
        self._watch.start(pl_module, self._activity.update)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the utilities and replace units, if the optimiser has made a step."""
        self._watch.stop()
        if self._count.stepped():
            self._step(trainer, pl_module)
        if logging_due(trainer):
            pl_module.log("intervention/continual_backprop/units", float(self.replaced), batch_size=1)

    def _step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        activity, self._activity = self._activity, ActivitySums(signed=True)
        assert activity.signed is not None
        known = self._watch.replaceable(trainer, pl_module)
        graph = {name: layer for name, layer in known.items() if name in activity.sums}
        if not graph:
            return
        modules = dict(pl_module.named_modules())
        # one reduction for all layers and both sums
        sums = [torch.stack([activity.sums[name], activity.signed[name]]) / activity.samples[name] for name in graph]
        means = trainer.strategy.reduce(torch.cat(sums, dim=1), reduce_op="mean")
        assert isinstance(means, torch.Tensor)
        units, lost = {}, {}
        for (name, layer), (mean_abs, mean) in zip(
            graph.items(), means.split([layer.units for layer in graph.values()], dim=1), strict=True
        ):
            if name not in self._utilities:
                self._utilities[name] = UnitUtility.fresh(layer.units, mean.device)
            utility = self._utilities[name]
            consumers = {consumer: modules[consumer] for consumer in layer.consumers}
            utility.update(mean_abs, mean, outgoing_magnitude(layer, consumers), self.decay)
            number = utility.due(self.rate, self.maturity)
            if number:
                units[name] = utility.least_useful(number, self.decay, self.maturity)
                lost[name] = utility.mean_activation(self.decay)
                utility.forget(units[name], number)
                self.replaced += number
        if units:
            # the count is a step number of its own: it differs at every replacement
            seeds = {name: derive_seed(self.seed, self.replaced, name) for name in units}
            with changing_weights(pl_module):
                replace_units(trainer, pl_module, graph, units, seeds, self.moments, self.init, lost)

    def coverage(self, trainer: Trainer, pl_module: LightningModule) -> list[CoverageRow]:
        """See `protocols.HasCoverage`."""
        return [CoverageRow("ContinualBackprop", *row) for row in self._watch.covers(trainer, pl_module)]

    def state_dict(self) -> dict[str, Any]:
        """Utilities, ages, and the layers seen."""
        return {
            "utilities": {name: utility.state_dict() for name, utility in self._utilities.items()},
            "graph": self._watch.state_dict(),
            "replaced": self.replaced,
            "count": self._count.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where `state_dict` left off."""
        self._utilities = {name: UnitUtility(**state) for name, state in state_dict["utilities"].items()}
        self._watch.load_state_dict(state_dict["graph"])
        self.replaced = state_dict["replaced"]
        self._count.load_state_dict(state_dict["count"])

    def rank_state(self) -> dict[str, Any]:
        """The activity since the last step: with accumulated gradients a step has several batches."""
        return self._activity.state_dict()

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Add to it."""
        self._activity.load_state_dict(state)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring restored utilities to the module's device; in a fit that begins anew forget those of an earlier one."""
        self._count.start(trainer)
        if begins_anew(trainer):
            self._watch.forget()
            self._utilities, self.replaced, self._activity = {}, 0, ActivitySums(signed=True)
        for utility in self._utilities.values():
            for name in ("utility", "mean", "age"):
                setattr(utility, name, getattr(utility, name).to(pl_module.device))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Watch no more."""
        self._watch.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Watch no more: Lightning calls no teardown after an exception."""
        self._watch.stop()
