"""Lightning's averages of weights copy the module at `setup`; a callback that changes its structure later has them copy anew."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer

from plasticity_lightning.runtime.lightning_classes import is_lightning

__all__ = ["copy_again"]


def copy_again(trainer: Trainer, pl_module: LightningModule) -> None:
    """Have the averages copy the module as it is now; call it in `setup`, before weights are loaded.

    Those that come later in the list copy in their turn. Lightning names the copy `_average_model` and offers no public
    access.
    """
    for callback in trainer.callbacks:
        copied = getattr(callback, "_average_model", None) is not None
        if copied and is_lightning(callback, "WeightAveraging", "StochasticWeightAveraging"):
            callback.setup(trainer, pl_module, "fit")
