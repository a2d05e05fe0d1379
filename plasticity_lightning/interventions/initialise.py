"""New weights for an old layer, drawn by the layer's own initialiser, reproducibly and without touching the layer.

A fresh layer is a copy that has called `reset_parameters` (and, if given, an init function as `module.apply` takes it)
under a seed of its own; the random states of the run stay bitwise as they are. Which weights are new is a function of
(seed, event, name of the layer), so that a resumed run and every rank of a distributed one draw the same.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from plasticity_lightning.measures.isolation import isolated_copy, undisturbed
from plasticity_lightning.measures.trainability import fresh_copy

__all__ = ["Initialiser", "derive_seed", "fresh_layer", "fresh_values", "resettable_layers", "select_layers"]

Initialiser = Callable[[nn.Module], Any]


def derive_seed(seed: int, event: int, name: str) -> int:
    """One non-negative 63-bit seed from a root seed, the number of an event and the name of a layer."""
    digest = hashlib.blake2b(f"{seed}/{event}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def fresh_layer(layer: nn.Module, seed: int, init: Initialiser | None = None) -> nn.Module:
    """Copy of `layer` with new weights.

    Args:
        layer: anything with `reset_parameters`, itself or in its children; torch's layers have it. Parametrised
            weights (`torch.nn.utils.parametrizations`) come back plain: initialised is what they are computed from.
        seed: of all random numbers drawn.
        init: applied to the copy and its children after `reset_parameters`, as `module.apply(init)` does it.

    Raises:
        ValueError: if a part can be re-initialised neither by its own method nor by `init`, or its weight is computed
            in an old-style hook (`torch.nn.utils.weight_norm`, `prune`), where resetting would have no effect.
    """
    _refuse_old_style(layer)
    with undisturbed(seed):
        plain = isolated_copy(layer)
        for child in plain.modules():
            for name in list(getattr(child, "parametrizations", {})):
                parametrize.remove_parametrizations(child, name, leave_parametrized=False)
        if init is None:
            return fresh_copy(plain, seed)
        with contextlib.suppress(ValueError):  # a layer without `reset_parameters` is what `init` is for
            plain = fresh_copy(plain, seed)
        with torch.no_grad():
            return plain.apply(init)


def fresh_values(layer: nn.Module, seed: int, init: Initialiser | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (tensor of `layer`, its new value) for its trainable parameters and the buffers that a reset changes.

    Frozen parameters are left out, and so are the buffers of a layer whose parameters are all frozen. A parameter that
    occurs twice comes once. Raises: as `fresh_layer`.
    """
    new = fresh_layer(layer, seed, init)
    values = {**dict(new.named_parameters(remove_duplicate=False)), **dict(new.named_buffers())}
    for name, parameter in layer.named_parameters():
        if parameter.requires_grad:
            yield parameter, values[_plain(name)].detach()
    for child_name, child in layer.named_modules():
        own = list(child.parameters(recurse=False))
        if own and not any(p.requires_grad for p in own):
            continue
        for name, buffer in child.named_buffers(recurse=False):
            value = values.get(f"{child_name}.{name}" if child_name else name)
            if value is not None and buffer is not None:
                yield buffer, value


def resettable_layers(root: nn.Module) -> dict[str, nn.Module]:
    """The smallest parts of `root` that can re-initialise all parameters below them, by name, in order of definition.

    `root` itself is never one of them. A layer is listed under its first name if it has several.

    Raises:
        ValueError: if parameters belong to no such part.
    """
    found: dict[str, nn.Module] = {}
    for name, module in root.named_children():
        _collect(module, name, found)
    return found


def select_layers(root: nn.Module, patterns: str | list[str], init: Initialiser | None = None) -> dict[str, nn.Module]:
    """Layers of `root` that the patterns choose.

    Args:
        root: the network or LightningModule.
        patterns: shell patterns over module names, `*` matches dots too; a module stands for all that is below it.
        init: given, layers without `reset_parameters` are accepted too.

    Raises:
        ValueError: if a pattern matches nothing, a chosen layer cannot be re-initialised, or a chosen parameter is
            shared with a module that is not chosen.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    names = [name for name, module in root.named_modules() if name and next(module.parameters(), None) is not None]
    chosen: list[str] = []
    for pattern in patterns:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise ValueError(f"modules: {pattern!r} matches no module with parameters; there are {names}")
        chosen += matched
    tops = {name for name in chosen if not any(_below(name, other) for other in chosen)}
    if set(root._parameters) and {n for n in names if "." not in n} <= tops and "*" in patterns:
        raise ValueError(
            f"{type(root).__name__} holds parameters of its own: {list(root._parameters)}; move them into a layer"
        )
    found: dict[str, nn.Module] = {}
    modules = dict(root.named_modules())
    for name in names:  # in order of definition
        if name in tops:
            _collect(modules[name], name, found, leaves=init is not None)
    _refuse_shared(root, found)
    return found


def _collect(module: nn.Module, name: str, found: dict[str, nn.Module], leaves: bool = False) -> None:
    if next(module.parameters(), None) is None or any(module is layer for layer in found.values()):
        return
    resets = hasattr(module, "reset_parameters") or hasattr(module, "_reset_parameters")
    owns = any(p is not None for p in module._parameters.values())
    if resets or (owns and leaves) or parametrize.is_parametrized(module):
        found[name] = module
        return
    if owns:
        raise ValueError(
            f"cannot re-initialise {name!r} ({type(module).__name__}): give it `reset_parameters`, or pass `init`"
        )
    for child_name, child in module.named_children():
        _collect(child, f"{name}.{child_name}", found, leaves)


def _refuse_shared(root: nn.Module, chosen: dict[str, nn.Module]) -> None:
    inside = {id(module) for layer in chosen.values() for module in layer.modules()}
    ours = {id(p): f"{name}.{n}" for name, layer in chosen.items() for n, p in layer.named_parameters()}
    for name, module in root.named_modules():
        if id(module) in inside:
            continue
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in ours:
                raise ValueError(
                    f"{ours[id(parameter)]} is the same parameter as {name}.{parameter_name}, which is not chosen: "
                    "choose both or neither"
                )


def _refuse_old_style(layer: nn.Module) -> None:
    for name, module in layer.named_modules():
        for hook in module._forward_pre_hooks.values():
            if type(hook).__module__.startswith("torch.nn.utils."):
                raise ValueError(
                    f"the weight of {name or type(module).__name__} is computed by {type(hook).__name__}, an old-style hook: "
                    "use torch.nn.utils.parametrizations, or remove it before training"
                )


def _below(name: str, other: str) -> bool:
    return name.startswith(other + ".")


def _plain(name: str) -> str:
    """`parametrizations.weight.original` is the `weight` of a copy without parametrisation."""
    parts = name.split(".")
    if "parametrizations" in parts:
        at = parts.index("parametrizations")
        return ".".join([*parts[:at], parts[at + 1]])
    return name
