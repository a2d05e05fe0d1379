"""What every triggered intervention shares: when it acts, its seeds, its records, resume and several processes.

A subclass says in `act` what is done and in `covers` to what. It is called between two optimiser steps, never in the middle of an accumulation
of gradients, behind the gate of weights (`runtime.weight_gate`), so that masks hold in the end. Random numbers come
from (seed, number of the event, name), so that a resumed run continues bitwise and all ranks draw the same; what was
drawn is broadcast from rank 0 all the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import Optimizer

from plasticity_lightning.interventions.initialise import derive_seed
from plasticity_lightning.interventions.optimizer_state import unwrapped
from plasticity_lightning.protocols import CoverageRow
from plasticity_lightning.runtime.clock import Unit
from plasticity_lightning.runtime.coverage import announce_coverage
from plasticity_lightning.runtime.exact_loops import inside_epoch
from plasticity_lightning.runtime.lightning_classes import is_lightning, keeps_parameters_whole
from plasticity_lightning.runtime.trigger import Trigger
from plasticity_lightning.runtime.updates import UpdateCount, begins_anew, optimizers_that_step
from plasticity_lightning.runtime.weight_gate import changing_weights

__all__ = ["TriggeredIntervention", "broadcast", "optimizers_of", "refuse_sharded", "report", "trained_parameters"]


class TriggeredIntervention(Callback, ABC):
    """Acts when its `Trigger` says so; subclasses implement `act` and set `name`.

    Args:
        every: act whenever this many units have passed.
        at: act at these readings.
        trigger: act when a logged measure crosses a threshold, e.g. `"plasticity/fau/critic < 0.2"`.
        unit: update (passes of the update rule, see `Clock`), batch, epoch or frame.
        hysteresis: see `Trigger`.
        refractory: see `Trigger`.
        seed: of all random numbers drawn.

    Logs:
        `intervention/<name>/...` at each event, to the loggers and to `trainer.callback_metrics`; TensorBoard gets the
        event as text, too.
    """

    name = ""

    def __init__(
        self,
        every: int | None = None,
        at: Sequence[int] | None = None,
        trigger: str | None = None,
        unit: Unit = "update",
        hysteresis: float = 0.0,
        refractory: int = 0,
        seed: int = 0,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative")
        self.trigger = Trigger(every, at, trigger, unit, hysteresis, refractory)
        self.seed = seed
        self.events = 0
        self._why: str | None = None
        self._count = UpdateCount()
        self._between_steps = True
        self._key: dict[str, Any] = {"every": every, "at": self.trigger.at, "trigger": trigger, "unit": unit}

    @property
    def state_key(self) -> str:
        """One key per configuration, so that several of a kind can serve one run."""
        return self._generate_state_key(**self._key)

    @abstractmethod
    def act(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Intervene, and return what was done: name -> number."""

    def ready(self) -> bool:
        """Whether a due event can be carried out now; one that must measure first says no until it has."""
        return True

    def seed_for(self, name: str) -> int:
        """The seed of the present event for the layer `name`."""
        return derive_seed(self.seed, self.events, name)

    def forget(self) -> None:
        """Forget what belongs to an earlier fit."""
        self.events, self._why, self._between_steps = 0, None, True

    def covers(self, trainer: Trainer, pl_module: LightningModule) -> Iterable[tuple[str, str, str]]:
        """(name, what, reason) of each part that `act` changes or leaves out, for the table of coverage."""
        return [("the module", "changed", "")]

    def coverage(self, trainer: Trainer, pl_module: LightningModule) -> list[CoverageRow]:
        """See `protocols.HasCoverage`."""
        return [CoverageRow(type(self).__name__, *row) for row in self.covers(trainer, pl_module)]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse strategies that split parameters."""
        refuse_sharded(trainer, type(self).__name__)
        if stage == "fit":
            announce_coverage(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the trigger; a callback that served an earlier fit begins anew."""
        self.trigger.start(trainer, pl_module)
        self._count.start(trainer)
        if begins_anew(trainer):
            self.forget()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Act if an event is due and the gradients of this batch have been used up."""
        # with accumulated gradients a batch may end without a step; a module without optimisers has no steps at all
        self._between_steps = self._count.stepped() or not optimizers_that_step(trainer)
        self._note(self.trigger.due(trainer, pl_module))
        self._act_if_due(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for events that are due by epochs or by measures of an epoch, if that is what has ended."""
        if inside_epoch(trainer):
            return
        self._note(self.trigger.due(trainer, pl_module, epoch_end=True))
        self._act_if_due(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Trigger, number of events, and an event that waits for its moment."""
        return {
            "trigger": self.trigger.state_dict(),
            "events": self.events,
            "why": self._why,
            "count": self._count.state_dict(),
            "between_steps": self._between_steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where `state_dict` left off."""
        self.trigger.load_state_dict(state_dict["trigger"])
        self.events, self._why = state_dict["events"], state_dict["why"]
        self._count.load_state_dict(state_dict["count"])
        self._between_steps = state_dict["between_steps"]

    def _note(self, why: str | None) -> None:
        self._why = why or self._why

    def _act_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._why is None or not self._between_steps or not self.ready():
            return
        with changing_weights(pl_module):
            done = self.act(trainer, pl_module)
        self.events += 1
        report(trainer, pl_module, self.name, self._why, {**done, "events": float(self.events)})
        self._why = None


def report(trainer: Trainer, pl_module: LightningModule, name: str, why: str, done: dict[str, float]) -> None:
    """Record an event in the loggers, in `trainer.callback_metrics` and, on rank 0, on the console."""
    values = {f"intervention/{name}/{key}": float(value) for key, value in done.items()}
    text = f"{name} ({why}): " + ", ".join(f"{key} {value:g}" for key, value in done.items())
    rank_zero_info(text)
    pl_module.log_dict(values, logger=False, batch_size=1)
    step = trainer.fit_loop.total_batch_idx + 1
    for logger in trainer.loggers:
        # not through self.log: between two logging steps it would drop the event
        logger.log_metrics(values, step=step)
        if is_lightning(logger, "TensorBoardLogger") and trainer.is_global_zero:
            logger.experiment.add_text(f"intervention/{name}", text, step)


def optimizers_of(trainer: Trainer) -> list[Optimizer]:
    """The run's optimisers without Lightning's wrappers."""
    return [unwrapped(optimizer) for optimizer in trainer.optimizers]


def trained_parameters(trainer: Trainer, pl_module: LightningModule) -> dict[str, torch.nn.Parameter]:
    """Trainable parameters of the module that an optimiser owns, by name."""
    owned = {id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
    return {name: p for name, p in pl_module.named_parameters() if p.requires_grad and id(p) in owned}


def broadcast(trainer: Trainer, tensors: Iterable[Tensor]) -> None:
    """Give all ranks the values of rank 0, in place."""
    if trainer.world_size > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor.data, 0)


def refuse_sharded(trainer: Trainer, name: str) -> None:
    """Raise MisconfigurationException if the strategy splits parameters over processes."""
    if not keeps_parameters_whole(trainer):
        raise MisconfigurationException(
            f"{name} edits whole parameters in place and cannot work with {type(trainer.strategy).__name__}, which splits "
            "them: use a single device or ddp"
        )
