"""New settings of optimisers and learning-rate schedules for a run that goes on from a checkpoint with others.

Restoring an optimiser restores its learning rate, momentum and weight decay, and restoring a schedule its milestones, so that what
the new run asks for would be ignored without a word. Here the new values are written into the states that are about to be
restored: moments, counters and how far a schedule has come stay those of the checkpoint.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

__all__ = ["override_optimizers"]

# where a schedule stands; everything else in its state says what it does
_PROGRESS = (
    "last_epoch",
    "_step_count",
    "_last_lr",
    "best",
    "num_bad_epochs",
    "cooldown_counter",
    "T_cur",
    "_schedulers",
    "_milestones",
)


def override_optimizers(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Write the hyperparameters of the Trainer's fresh optimisers and schedules into a checkpoint's states, in place.

    A learning rate that a schedule has changed keeps its ratio to the initial one.
    """
    for optimizer, state in zip(trainer.optimizers, checkpoint["optimizer_states"], strict=False):
        fresh = optimizer.state_dict()["param_groups"]
        for new, old in zip(fresh, state["param_groups"], strict=False):
            base, before = new.get("initial_lr", new["lr"]), old.get("initial_lr", old["lr"])
            lr = base if old["lr"] == before or not before else old["lr"] * base / before
            kept = {"params": old["params"], "lr": lr}
            old.update({**new, **kept})
    for config, state in zip(trainer.lr_scheduler_configs, checkpoint["lr_schedulers"], strict=False):
        fresh_state = config.scheduler.state_dict()
        old_rates, new_rates = state.get("base_lrs"), fresh_state.get("base_lrs")
        if old_rates and new_rates and "_last_lr" in state:
            ratios = [new / old if old else 1.0 for new, old in zip(new_rates, old_rates, strict=False)]
            state["_last_lr"] = [rate * ratio for rate, ratio in zip(state["_last_lr"], ratios, strict=False)]
        state.update({key: value for key, value in fresh_state.items() if key not in _PROGRESS})
