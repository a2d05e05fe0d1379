"""What an intervention does to the optimiser: forget the moments of new weights, all of them or single entries.

New weights with old moments take their first steps in the direction of the old ones. `"zero"` sets the moments of the
touched entries to 0 and, where a whole parameter is new, its step count too, so that Adam's bias correction starts
over; Adam counts steps per parameter, so a parameter that is new in part keeps its count. `"keep"` leaves all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["Moments", "check_moments", "forget_moments", "unwrapped"]

Moments = Literal["zero", "keep"]

# entries that torch's SGD, Adam, AdamW, NAdam, RAdam, Adamax, RMSprop, Adagrad and Adadelta start at 0, and UPGD's
_MOMENTS = frozenset(
    [
        "momentum_buffer",
        "exp_avg",
        "exp_avg_sq",
        "max_exp_avg_sq",
        "exp_inf",
        "square_avg",
        "grad_avg",
        "acc_delta",
        "sum",
        "avg_utility",
    ]
)


def check_moments(moments: str) -> None:
    """Raise ValueError unless `moments` is a policy."""
    if moments not in get_args(Moments):
        raise ValueError(f"moments={moments!r} must be one of {', '.join(get_args(Moments))}")


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimiser inside the wrapper that `LightningModule.optimizers()` returns."""
    inner = getattr(optimizer, "optimizer", None)
    return inner if isinstance(inner, Optimizer) else optimizer


@torch.no_grad()
def forget_moments(optimizers: Iterable[Optimizer], parameter: Tensor, entries: Tensor | None = None) -> None:
    """Set the moments of `parameter` to 0 in every optimiser that has any.

    Works in place where it can, so that a captured CUDA graph sees it, and does not synchronise the device.

    Args:
        optimizers: all of the run.
        parameter: whose value is new.
        entries: bool tensor that broadcasts to the parameter's shape, True where the value is new; None: everywhere.

    Raises:
        ValueError: with `entries`, for an optimiser whose state per entry is not known (LBFGS, Rprop, Adafactor, ...).
    """
    for optimizer in map(unwrapped, optimizers):
        state = optimizer.state.get(parameter)
        if not state:
            continue
        tensors = {key: value for key, value in state.items() if value is not None and key != "step"}
        known = all(key in _MOMENTS and value.shape == parameter.shape for key, value in tensors.items())
        if entries is None and not known:
            # torch's optimisers start a parameter without state afresh
            optimizer.state.pop(parameter)
        elif not known:
            raise ValueError(
                f"{type(optimizer).__name__} keeps {sorted(set(tensors) - _MOMENTS)} per parameter, which cannot be "
                "forgotten entry by entry: use SGD, Adam, AdamW, RMSprop or UPGD, or moments='keep'"
            )
        elif entries is not None:
            for value in tensors.values():
                value.masked_fill_(entries, 0)
        else:
            for value in tensors.values():
                value.zero_()
            step = state.get("step")
            if isinstance(step, Tensor):
                step.zero_()
            elif step is not None:
                state["step"] = 0
