"""L2-init (regenerative regularisation): a penalty on the distance of the weights from where they started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from plasticity_lightning.callbacks.interventions.anchored import Anchored
from plasticity_lightning.callbacks.interventions.triggered import optimizers_of
from plasticity_lightning.interventions.l2_init import add_anchor_gradient, pull_to_anchors, squared_distance
from plasticity_lightning.runtime.clock import logging_due
from plasticity_lightning.runtime.loss_gradient import adding_to_gradients
from plasticity_lightning.runtime.weight_gate import changing_weights

__all__ = ["L2Init"]


class L2Init(Anchored):
    """Adds strength * L2(W - W_0)^2 to the loss, or pulls the weights towards W_0 after each step.

    W_0 are the weights at the start of training; they are kept beside the parameters (as much memory again) and in the
    checkpoint. Gradients of the penalty are clipped with those of the loss.

    Args:
        strength: lambda, at least 0; 1e-3 to 1e-2.
        decoupled: pull W by lr * 2 * strength after each step, untouched by Adam's scaling, instead of through the
            gradient.
        parameters: shell patterns over parameter names.

    Logs:
        `intervention/l2_init/penalty`, the term of the loss, every `log_every_n_steps` batches.

    Raises:
        ValueError: if `strength` is negative.
        MisconfigurationException: if the patterns match no trainable parameter, or another number of weights than that
            in the checkpoint.

    Source: Kumar et al. 2023.
    """

    def __init__(self, strength: float = 1e-3, decoupled: bool = False, parameters: str | list[str] = "*") -> None:
        if strength < 0:
            raise ValueError(f"strength={strength} must not be negative")
        super().__init__(parameters)
        self.strength, self.decoupled = strength, decoupled
        self._handles: list[RemovableHandle] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember W_0, unless a checkpoint has brought it, and follow the steps if decoupled."""
        super().on_train_start(trainer, pl_module)
        self._remove_hooks()
        if self.decoupled:
            self._handles = [o.register_step_post_hook(self._pull_in(pl_module)) for o in optimizers_of(trainer)]

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add the gradient of the penalty for the parameters of this optimiser."""
        if not self.decoupled:
            adding_to_gradients(pl_module, optimizer)
            for group in optimizer.param_groups:
                add_anchor_gradient(*self.pairs(group["params"]), self.strength)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the penalty."""
        if logging_due(trainer):
            pairs = self.pairs(list(pl_module.parameters()))
            pl_module.log("intervention/l2_init/penalty", self.strength * squared_distance(*pairs), batch_size=1)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks."""
        self._remove_hooks()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks: Lightning calls no teardown after an exception."""
        self._remove_hooks()

    def _pull_in(self, pl_module: LightningModule) -> Callable[[Optimizer, Any, Any], None]:
        def pull(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            with changing_weights(pl_module):
                for group in optimizer.param_groups:
                    pull_to_anchors(*self.pairs(group["params"]), group["lr"] * 2 * self.strength)

        return pull

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
