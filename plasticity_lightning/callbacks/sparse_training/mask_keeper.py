"""When masks must hold: what PruneRegrowScheduler and OneShotPruning share. What the masks are is each callback's own affair.

Absent weights are exactly 0 after every step of an optimiser that owns them (the subclass hooks it), when a gate of
`runtime.weight_gate` on the module closes, at the start of every batch of training, validation, test and prediction
inside a fit, whenever the module's `state_dict` is taken (so in every checkpoint), and at the end. A write past the gate
therefore lasts until the next of these moments at most.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from plasticity_lightning.callbacks.sparse_training.sync import mask_averages
from plasticity_lightning.runtime.weight_gate import hold_invariant

__all__ = ["MaskKeeper"]


class MaskKeeper(Callback, ABC):
    """Applies masks at all the moments above, from `keep` on until `let_go`; subclasses have `masks` and `apply`."""

    indispensable = True  # `AtomicCheckpoint` refuses to resume without it: the zeros would be lost

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._keeping = False

    @property
    @abstractmethod
    def masks(self) -> dict[str, Tensor]:
        """Bool masks by parameter name; empty before there are any."""

    @abstractmethod
    def apply(self) -> None:
        """Set the absent weights to 0, in place; cheap enough for every batch."""

    def keep(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hold the masks from now on."""

        def before_state_dict(*_: Any) -> None:
            self._apply_everywhere(trainer)

        self._keeping = True
        self._handles += [
            hold_invariant(pl_module, lambda changed: self.apply()),
            pl_module.register_state_dict_pre_hook(before_state_dict),
        ]

    def let_go(self) -> None:
        """Remove all hooks."""
        self._keeping = False
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Undo what has been written past the gate."""
        if self._keeping:
            self.apply()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """The same, for averages that another callback has put in the place of the weights, too."""
        if self._keeping:
            self.apply() if batch_idx else self._apply_everywhere(trainer)

    on_test_batch_start = on_validation_batch_start
    on_predict_batch_start = on_validation_batch_start

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave masked weights behind, and no hooks."""
        if self._keeping:
            self._apply_everywhere(trainer)
        self.let_go()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Mask what an exception's checkpoint will hold, and remove the hooks: Lightning calls no teardown then."""
        if self._keeping:
            with contextlib.suppress(RuntimeError):  # of a broken device; it must not hide the exception
                self._apply_everywhere(trainer)
        self.let_go()

    def _apply_everywhere(self, trainer: pl.Trainer) -> None:
        self.apply()
        mask_averages(trainer, self.masks)
