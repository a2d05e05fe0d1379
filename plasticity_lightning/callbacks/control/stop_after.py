"""End training after a number of frames; `max_steps` counts optimiser steps, of which a step of control makes any number."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.protocols import CoverageRow
from plasticity_lightning.runtime.coverage import announce_coverage
from plasticity_lightning.runtime.updates import progress_of

__all__ = ["StopAfter"]


class StopAfter(Callback):
    """Asks the Trainer to stop when the module has seen so many frames, or taken so many steps or updates.

    Acts on any module whose `progress()` returns the counter. Under several processes each counts its own; as they
    step alike, they stop alike. A run that has ended goes on from its checkpoint with a higher limit.

    Args:
        frames: simulated frames, `progress()["frame"]`; published learning curves count these.
        steps: environment steps, `progress()["step"]`.
        updates: updates, `progress()["update"]`.

    Raises:
        ValueError: unless exactly one is given, and it is at least 1.
        MisconfigurationException: at setup, if the module does not count it.
    """

    def __init__(self, frames: int | None = None, steps: int | None = None, updates: int | None = None) -> None:
        given = {"frame": frames, "step": steps, "update": updates}
        limits = {name: value for name, value in given.items() if value is not None}
        if len(limits) != 1 or min(limits.values()) < 1:
            raise ValueError(
                f"exactly one of frames={frames}, steps={steps} and updates={updates} must be given and be at least 1"
            )
        ((self.counter, self.run_limit),) = limits.items()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the module counts."""
        if stage != "fit":
            return
        if progress_of(pl_module, self.counter) is None:
            raise MisconfigurationException(
                f"StopAfter counts {self.counter}s: {type(pl_module).__name__} needs a method progress() that returns a "
                f"dict with the key {self.counter!r}"
            )
        announce_coverage(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stop when it is time."""
        if (progress_of(pl_module, self.counter) or 0) >= self.run_limit:
            trainer.should_stop = True

    def coverage(self, trainer: Trainer, pl_module: LightningModule) -> list[CoverageRow]:
        """The counter; nothing of the network."""
        name = f"{type(pl_module).__name__}.progress()"
        return [
            CoverageRow(
                "StopAfter",
                name,
                "counted",
                f"nothing of the network: ends the run at {self.run_limit} {self.counter}s",
            )
        ]
