"""Lightning's progress bar with truthful words: no last epoch where there is none, and the phase of a module that has phases."""

from __future__ import annotations

from lightning.pytorch.callbacks import RichProgressBar

from plasticity_lightning.protocols import HasPhase

__all__ = ["PhaseProgressBar"]


class PhaseProgressBar(RichProgressBar):
    """Rich progress bar; arguments as Lightning's. A module with `phase` (see `protocols.HasPhase`) has it shown."""

    def _get_train_description(self, current_epoch: int) -> str:
        epochs = self.trainer.max_epochs
        words = f"Epoch {current_epoch}" + (f"/{epochs - 1}" if epochs is not None and epochs > 0 else "")
        module = self.trainer.lightning_module
        if isinstance(module, HasPhase) and isinstance(module.phase, str):
            words = f"{module.phase} (epoch {current_epoch})"
        return f"{words:{len(self.validation_description)}}"  # else the bar flickers where they alternate
