"""New weights for an old layer, drawn by the layer's own initialiser, reproducibly and without touching the layer.

A fresh layer is a copy that has called `reset_parameters` (and, if given, an init function as `module.apply` takes it)
under a seed of its own; the random states of the run stay bitwise as they are. Which weights are new is a function of
(seed, event, name of the layer), so that a resumed run and every rank of a distributed one draw the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from plasticity_lightning.measures.isolation import isolated_copy, undisturbed
from plasticity_lightning.measures.trainability import fresh_copy

__all__ = [
    "Initialiser",
    "derive_seed",
    "fresh_layer",
    "fresh_state",
    "fresh_values",
    "initialiser_of",
    "not_redrawable",
    "resettable_layers",
    "select_layers",
]

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
            if parametrize.is_parametrized(child):
                # torch makes one class a parametrised layer, which copies share, and removing takes the weight from it
                kind = type(child)
                child.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
            for name, computed in list(getattr(child, "parametrizations", {}).items()):
                # of several tensors (weight norm) none has the shape of the weight: left is what they give
                parametrize.remove_parametrizations(child, name, leave_parametrized=not computed.is_tensor)
        if init is None:
            return fresh_copy(plain, seed)
        with contextlib.suppress(ValueError):  # a layer without `reset_parameters` is what `init` is for
            return _initialised(fresh_copy(plain, seed), init)
        old = {name: p.clone() for name, p in plain.named_parameters() if p.ndim >= 2}
        fresh = _initialised(plain, init)
        for name, parameter in fresh.named_parameters():
            if name in old and bool(parameter.any()) and torch.equal(parameter, old[name]):
                raise ValueError(
                    f"init left {name} of {type(layer).__name__} as it was: it must draw new values in place"
                )
        return fresh


def fresh_values(layer: nn.Module, seed: int, init: Initialiser | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (tensor of `layer`, its new value) for its trainable parameters and the buffers that a reset changes.

    Frozen parameters are left out, and so are the buffers of a layer whose parameters are all frozen. A parameter that
    occurs twice comes once. Raises: as `fresh_layer`.
    """
    values = fresh_state(layer, seed, init)
    for name, parameter in layer.named_parameters():
        if parameter.requires_grad:
            yield parameter, values[name]
    for child_name, child in layer.named_modules():
        own = list(child.parameters(recurse=False))
        if own and not any(p.requires_grad for p in own):
            continue
        for name, buffer in child.named_buffers(recurse=False):
            value = values.get(f"{child_name}.{name}" if child_name else name)
            if value is not None and buffer is not None:
                yield buffer, value


def fresh_state(layer: nn.Module, seed: int, init: Initialiser | None = None) -> dict[str, Tensor]:
    """New values of all parameters and buffers of `layer`, by their names in it; raises as `fresh_layer`.

    Where a weight is computed from several parameters (weight norm), they are those that give the new weight. Buffers of
    a parametrisation are left out.
    """
    new = fresh_layer(layer, seed, init)
    parameters, buffers = dict(new.named_parameters(remove_duplicate=False)), dict(new.named_buffers())
    values = _taken_apart(layer, new)
    for name, _ in layer.named_parameters(remove_duplicate=False):
        if name not in values:
            values[name] = parameters[_plain(name)].detach()
    return values | {name: buffers[name] for name, _ in layer.named_buffers() if name in buffers}


def resettable_layers(root: nn.Module) -> dict[str, nn.Module]:
    """The smallest parts of `root` that can re-initialise all parameters below them, by name, in order of definition.

    `root` itself is never one of them. A layer is listed under its first name if it has several.

    Raises:
        ValueError: if parameters belong to no such part.
    """
    parts = _Parts()
    for name, module in root.named_children():
        parts.collect(module, name)
    parts.refuse_stuck()
    return parts.found


def initialiser_of(root: nn.Module, name: str, init: Initialiser | None = None) -> Initialiser | None:
    """What draws the weights of the module `name` of `root` anew, beside its own `reset_parameters`.

    `init` where it is given; nothing for a module that can do it by itself; else the `_init_weights` of the nearest
    module above it, a function of one module by the convention of transformers and timm.
    """
    if init is not None or not _stuck_below(root.get_submodule(name)):
        return init
    parts = name.split(".")
    for end in range(len(parts), -1, -1):
        method = getattr(root.get_submodule(".".join(parts[:end])), "_init_weights", None)
        if callable(method) and _takes_one(method):
            return method
    return None


def not_redrawable(layer: nn.Module, init: Initialiser | None = None) -> str:
    """Why the weights of `layer` cannot be drawn anew, or an empty string.

    Args:
        layer: any module.
        init: see `initialiser_of`.
    """
    if init is None and (stuck := _stuck_below(layer)):
        return f"{type(stuck).__name__} has no `reset_parameters`; pass `init`"
    try:
        _refuse_old_style(layer)
    except ValueError as error:
        return str(error)
    return ""


def select_layers(
    root: nn.Module,
    patterns: str | list[str],
    init: Initialiser | None = None,
    last: int | None = None,
    left_out: dict[str, str] | None = None,
) -> dict[str, nn.Module]:
    """Layers of `root` that the patterns choose.

    Args:
        root: the network or LightningModule.
        patterns: shell patterns over module names, `*` matches dots too; a module stands for all that is below it.
        init: given, layers without `reset_parameters` are accepted too.
        last: only the last so many of the chosen layers that have a matrix (a parameter of two or more dimensions), in
            the order in which they are defined, and what is defined behind the first of them without one (norms).
        left_out: given, layers that cannot be re-initialised are left out instead of refused, and put here: name ->
            reason.

    Raises:
        ValueError: if a pattern matches nothing, a chosen layer cannot be re-initialised (with `left_out`: none can), or
            a chosen parameter is shared with a module that is not chosen.
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
    parts = _Parts(root, init)
    modules = dict(root.named_modules())
    for name in names:  # in order of definition
        if name in tops:
            parts.collect(modules[name], name)
    if set(root._parameters) and {n for n in names if "." not in n} <= tops and "*" in patterns:
        parts.stuck[type(root).__name__] = f"its own parameters {', '.join(root._parameters)}: move them into a layer"
    if last is not None:
        parts.keep_last(last)
    if left_out is None:
        parts.refuse_stuck()
    else:
        left_out.update(parts.stuck)
        if not parts.found:
            parts.refuse_stuck()
    _refuse_shared(root, parts.found)
    return parts.found


class _Parts:
    """The smallest parts that can be drawn anew, and parameters that belong to none."""

    def __init__(self, root: nn.Module | None = None, init: Initialiser | None = None) -> None:
        self.root, self.init = root, init
        self.found: dict[str, nn.Module] = {}
        self.stuck: dict[str, str] = {}
        self._order: list[tuple[str, bool]] = []  # name, whether it has a matrix

    def collect(self, module: nn.Module, name: str) -> None:
        if next(module.parameters(), None) is None or any(module is layer for layer in self.found.values()):
            return
        own = [n for n, p in module._parameters.items() if p is not None]
        resets = hasattr(module, "reset_parameters") or hasattr(module, "_reset_parameters")
        inherits = self.root is not None and initialiser_of(self.root, name, self.init) is not None
        if resets or (own and inherits) or parametrize.is_parametrized(module):
            self.found[name] = module
            self._order.append((name, any(p.ndim >= 2 for p in module.parameters())))
            return
        if own:
            self.stuck[name] = (
                f"{type(module).__name__} holds {', '.join(own)}: give it `reset_parameters`, or pass `init`"
            )
            self._order.append((name, any(module._parameters[n].ndim >= 2 for n in own)))  # type: ignore[union-attr]
        for child_name, child in module.named_children():
            self.collect(child, f"{name}.{child_name}")

    def keep_last(self, last: int) -> None:
        """Keep the last so many parts with a matrix, and the parts without one that are defined behind the first of them."""
        matrices = [i for i, (_, matrix) in enumerate(self._order) if matrix]
        first = matrices[-last] if len(matrices) >= last else 0
        kept = {name for name, _ in self._order[first:]}
        self.found = {name: layer for name, layer in self.found.items() if name in kept}
        self.stuck = {name: why for name, why in self.stuck.items() if name in kept}

    def refuse_stuck(self) -> None:
        if self.stuck:
            raise ValueError(
                "cannot re-initialise " + "; ".join(f"{name!r} ({why})" for name, why in self.stuck.items())
            )


def _stuck_below(layer: nn.Module) -> nn.Module | None:
    """The first module with parameters that neither it nor a module above it, up to `layer`, can reset."""
    if hasattr(layer, "reset_parameters") or hasattr(layer, "_reset_parameters"):
        return None
    if any(p is not None for p in layer._parameters.values()):
        return layer
    if parametrize.is_parametrized(layer):
        return None
    return next((stuck for child in layer.children() if (stuck := _stuck_below(child)) is not None), None)


def _takes_one(method: Initialiser) -> bool:
    needed = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
    return len([p for p in needed if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]) == 1


@torch.no_grad()
def _initialised(layer: nn.Module, init: Initialiser) -> nn.Module:
    return layer.apply(init)


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


@torch.no_grad()
def _taken_apart(layer: nn.Module, new: nn.Module) -> dict[str, Tensor]:
    """The parameters that together give the weights of `new`, by their names in `layer`, where there are several a weight."""
    values: dict[str, Tensor] = {}
    for name, child in layer.named_modules():
        for tensor, computed in getattr(child, "parametrizations", {}).items():
            if computed.is_tensor:
                continue
            parts: Any = getattr(new.get_submodule(name), tensor).detach()
            for step in reversed(computed):
                parts = step.right_inverse(parts)
            at = f"{name}.parametrizations" if name else "parametrizations"
            values |= {f"{at}.{tensor}.original{i}": part for i, part in enumerate(parts)}
    return values


def _plain(name: str) -> str:
    """`parametrizations.weight.original` is the `weight` of a copy without parametrisation."""
    parts = name.split(".")
    if "parametrizations" in parts:
        at = parts.index("parametrizations")
        return ".".join([*parts[:at], parts[at + 1]])
    return name
