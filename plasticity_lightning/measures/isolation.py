"""Measure without leaving a trace: a copy of a module without its hooks and its run, and random states that come back.

Measures that train, differentiate or probe a network do so on `isolated_copy(module)` inside `undisturbed()`: the
live module, its gradients, its optimiser, its hooks (a monitor must not count the probe as data) and every random
state are bitwise what they were.
"""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["isolated_copy", "undisturbed"]

_HOOK_DICTS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
# where a module remembers the run that it serves (Lightning's names): the copy serves none
_RUN_ATTRIBUTES = ("_trainer", "_fabric")


def isolated_copy(module: nn.Module) -> nn.Module:
    """Deep copy of `module` without forward and backward hooks and without gradients.

    Shared parameters stay shared, frozen ones frozen, the training flag as it is. State tensors that carry a graph
    (the membrane potential of a spiking layer after a forward pass) are copied detached, which `copy.deepcopy` alone
    refuses. Of a module wrapped by `torch.compile` the original is copied. A LightningModule's copy belongs to no
    Trainer: what its forward pass logs is not logged, and the run (loaders, optimisers, callbacks) is not copied.
    """
    module = getattr(module, "_orig_mod", module)  # the wrapper of torch.compile
    memo: dict[int, object] = {}
    for child in module.modules():
        for name in _HOOK_DICTS:
            hooks = getattr(child, name, None)
            if hooks is not None:
                # deepcopy takes what the memo holds for an object instead of copying it: the copy gets empty hooks,
                # and neither the hooks nor whatever they close over (a callback, its trainer) is copied
                memo[id(hooks)] = OrderedDict(
                    # old-style weight_norm, spectral_norm and pruning compute the weight in a hook: those stay
                    (key, hook)
                    for key, hook in hooks.items()
                    if type(hook).__module__.startswith("torch.nn.utils.")
                )
        for name in _RUN_ATTRIBUTES:
            run = vars(child).get(name)
            if run is not None:
                memo[id(run)] = None
        for value in vars(child).values():
            _detach_graphs(value, memo)
    return copy.deepcopy(module, memo)


@contextmanager
def undisturbed(seed: int) -> Iterator[None]:
    """Run the block with gradients enabled and every global random state seeded; put the random states back afterwards.

    Covers torch (CPU and, if it is in use, every CUDA device), numpy and Python, also when the block raises.
    Inference mode is left, so that a copy can be trained from within a validation loop.

    Args:
        seed: of all random states inside the block.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the legacy state is the point
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.enable_grad():
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.default_generator.manual_seed(seed)
            for device in devices:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def _detach_graphs(value: object, memo: dict[int, object]) -> None:
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            memo[id(value)] = value.detach().clone()
    elif isinstance(value, dict):
        for entry in value.values():
            _detach_graphs(entry, memo)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            _detach_graphs(entry, memo)
