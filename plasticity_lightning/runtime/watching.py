"""Who watches or changes an update from outside? Hooks and callbacks that a recorded update would pass by.

A CUDA graph repeats kernels, not Python: hooks on modules, parameters' gradients and optimisers, and the Trainer's hooks
inside an update run while it is recorded and never again. So an update that somebody watches must run eagerly.
"""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.nn.modules import module as torch_modules

from plasticity_lightning.protocols import WatchesUpdates

__all__ = ["watcher_of_updates"]

_INSIDE = ("on_before_backward", "on_after_backward", "on_before_zero_grad", "on_before_optimizer_step")
_MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OPTIMIZER_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


def watcher_of_updates(trainer: Trainer, module: LightningModule) -> str | None:
    """The first that watches or changes the updates of this batch, by name; None if nobody does.

    A callback that overrides a hook of the Trainer inside an update watches every update, unless it says by
    `watching`, as `protocols.WatchesUpdates` describes, that it does not watch this one.
    """
    for callback in trainer.callbacks:
        asked = any(is_overridden(hook, callback, Callback) for hook in _INSIDE)
        if asked and (not isinstance(callback, WatchesUpdates) or callback.watching):
            return type(callback).__name__
    for optimizer in trainer.optimizers:
        if any(getattr(optimizer, hooks) for hooks in _OPTIMIZER_HOOKS):
            return f"a hook on the steps of {type(optimizer).__name__}"
    if any(getattr(torch_modules, f"_global{hooks}") for hooks in _MODULE_HOOKS):
        return "a hook on all modules"
    for name, part in module.named_modules():
        if any(getattr(part, hooks) for hooks in _MODULE_HOOKS):
            return f"a hook on {name or type(part).__name__}"
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return f"a hook on the gradient of {name}"
    return None
