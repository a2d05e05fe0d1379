"""L2-init (regenerative regularisation): a penalty on the distance of the weights from where they started."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from plasticity_lightning.callbacks.interventions.triggered import optimizers_of, refuse_sharded, trained_parameters
from plasticity_lightning.interventions.anchors import add_anchor_gradient, pull_to_anchors, squared_distance

__all__ = ["L2Init"]


class L2Init(Callback):
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
        self.strength, self.decoupled = strength, decoupled
        self.patterns = [parameters] if isinstance(parameters, str) else list(parameters)
        self.anchors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}
        self._handles: list[RemovableHandle] = []

    @property
    def state_key(self) -> str:
        """One key per choice of parameters."""
        return self._generate_state_key(parameters=self.patterns)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse strategies that split parameters, and patterns without a match."""
        refuse_sharded(trainer, type(self).__name__)
        names = [name for name, p in pl_module.named_parameters() if p.requires_grad]
        if stage == "fit" and not any(fnmatchcase(name, pattern) for name in names for pattern in self.patterns):
            raise MisconfigurationException(
                f"L2Init: parameters={self.patterns} matches no trainable parameter; there are {names}"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember W_0, unless a checkpoint has brought it."""
        chosen = {
            name: p
            for name, p in trained_parameters(trainer, pl_module).items()
            if any(fnmatchcase(name, pattern) for pattern in self.patterns)
        }
        if not self.anchors:
            self.anchors = {name: p.detach().clone() for name, p in chosen.items()}
        shapes = {name: tuple(a.shape) for name, a in self.anchors.items()}
        if shapes != {name: tuple(p.shape) for name, p in chosen.items()}:
            raise MisconfigurationException(
                f"L2Init: the checkpoint holds initial weights of {sorted(shapes)}, the module has {sorted(chosen)}"
            )
        self.anchors = {name: self.anchors[name].to(p.device) for name, p in chosen.items()}
        self._names = {id(p): name for name, p in chosen.items()}
        self._remove_hooks()
        if self.decoupled:
            self._handles = [o.register_step_post_hook(self._pull) for o in optimizers_of(trainer)]

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add the gradient of the penalty for the parameters of this optimiser."""
        if not self.decoupled:
            for group in optimizer.param_groups:
                add_anchor_gradient(*self._pairs(group["params"]), self.strength)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the penalty."""
        if trainer.log_every_n_steps and (batch_idx + 1) % trainer.log_every_n_steps == 0:
            pairs = self._pairs([p for p in pl_module.parameters() if id(p) in self._names])
            pl_module.log("intervention/l2_init/penalty", self.strength * squared_distance(*pairs), batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """W_0."""
        return {"anchors": dict(self.anchors)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take W_0 from the checkpoint."""
        self.anchors = dict(state_dict["anchors"])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks."""
        self._remove_hooks()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks: Lightning calls no teardown after an exception."""
        self._remove_hooks()

    def _pull(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            pull_to_anchors(*self._pairs(group["params"]), group["lr"] * 2 * self.strength)

    def _pairs(self, parameters: list[nn.Parameter]) -> tuple[list[Tensor], list[Tensor]]:
        ours = [p for p in parameters if id(p) in self._names]
        return list(ours), [self.anchors[self._names[id(p)]] for p in ours]

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
