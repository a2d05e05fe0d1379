"""Which modules of a stranger's network are measured, what they are called, and which group they belong to.

Activations are the outputs of nonlinearities, recognised as `measures.nonlinearities` lists them; weights and gradients
belong to the module that owns the parameters. Names are those of `named_modules`, without the prefix that
`torch.compile` inserts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from plasticity_lightning.measures.aggregate import NETWORK, match_groups
from plasticity_lightning.measures.nonlinearities import CUSTOM, LINEAR, NonlinearityKind, kind_of_module
from plasticity_lightning.protocols import HasPlasticityGroups

__all__ = [
    "Caller",
    "Nonlinearity",
    "ParameterLayer",
    "find_callers",
    "find_fallback",
    "find_groups",
    "find_nonlinearities",
    "find_parameter_layers",
    "layers_of_groups",
    "plain_name",
    "producer_layout",
]

# layers whose output a nonlinearity usually follows, with the dimension of units of an output of 3 or more dimensions
_PRODUCERS: dict[type[nn.Module], int] = {
    nn.Linear: -1,
    nn.Bilinear: -1,
    nn.LayerNorm: -1,
    nn.RMSNorm: -1,
    nn.MultiheadAttention: -1,
    nn.modules.conv._ConvNd: 1,
    nn.modules.batchnorm._NormBase: 1,
    nn.GroupNorm: 1,
}


@dataclass(frozen=True)
class Nonlinearity:
    """A module whose output is an activation."""

    name: str
    module: nn.Module
    kind: NonlinearityKind


@dataclass(frozen=True)
class Caller:
    """A module by which activations that are called as functions are named and placed.

    Args:
        name: plain name.
        module: itself.
        produces: it owns a matrix or normalises: what follows its output belongs to it.
        unit_dim: dimension of units of its output where that has three or more; None where its class does not tell.
        leaf: a layer of torch, inside which no activation function is called.
    """

    name: str
    module: nn.Module
    produces: bool
    unit_dim: int | None
    leaf: bool


@dataclass(frozen=True)
class ParameterLayer:
    """The trainable parameters that one module owns.

    Args:
        name: of the module.
        parameters: all of them, by their full plain name.
        matrices: those with two or more dimensions, kernels among them: by the module's name where it owns one, else by
            their own. A layer of vectors only, such as a normalisation, has none: gradients but no weight measures.
    """

    name: str
    parameters: dict[str, nn.Parameter]
    matrices: dict[str, nn.Parameter]


def plain_name(name: str) -> str:
    """`name` without the parts `_orig_mod` that the wrapper of `torch.compile` inserts."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def find_nonlinearities(root: nn.Module, patterns: Sequence[str] | None = None) -> list[Nonlinearity]:
    """Nonlinearities below `root`, a shared one once, under its first name.

    Args:
        root: the LightningModule or a network.
        patterns: shell patterns of modules to take instead, whatever their class; "custom" is the kind of those that
            are of no known class.

    Raises:
        MisconfigurationException: if a pattern matches no module.
    """
    modules = {plain_name(name): module for name, module in root.named_modules() if name}
    if patterns is None:
        kinds = {name: kind_of_module(module) for name, module in modules.items()}
        return [Nonlinearity(name, modules[name], kind) for name, kind in kinds.items() if kind is not None]
    try:
        chosen = match_groups({"activations": patterns}, list(modules), network=False)["activations"]
    except ValueError as error:
        raise MisconfigurationException(f"activations={list(patterns)}: {error}") from error
    return [Nonlinearity(name, modules[name], kind_of_module(modules[name]) or CUSTOM) for name in chosen]


def find_fallback(root: nn.Module) -> list[Nonlinearity]:
    """Linear, convolutional and normalisation layers, for a network whose activations are not seen."""
    return [
        Nonlinearity(caller.name, caller.module, LINEAR)
        for caller in find_callers(root)
        if caller.leaf and not isinstance(caller.module, nn.MultiheadAttention)
    ]


def find_callers(root: nn.Module) -> list[Caller]:
    """All modules below `root`, with what they tell of an activation that follows them or is called inside them."""
    callers = []
    for name, module in root.named_modules():
        if name and not isinstance(module, ParametrizationList):  # it runs whenever a parametrised weight is read
            unit_dim = producer_layout(module)
            owns = any(p.ndim >= 2 for p in module.parameters(recurse=False))
            callers.append(
                Caller(plain_name(name), module, owns or unit_dim is not None, unit_dim, unit_dim is not None)
            )
    return callers


def producer_layout(module: nn.Module) -> int | None:
    """Dimension of units of the output of a linear, convolutional or normalisation layer; None for another module."""
    return next((unit_dim for cls, unit_dim in _PRODUCERS.items() if isinstance(module, cls)), None)


def find_parameter_layers(root: nn.Module) -> list[ParameterLayer]:
    """Modules below `root` (itself included) that own trainable parameters; a shared parameter counts once."""
    layers: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in root.named_parameters():
        if parameter.requires_grad:
            # of a parametrised weight the original is taken: computing the weight may have side effects
            full = plain_name(name).replace("parametrizations.", "").removesuffix(".original")
            layers.setdefault(full.rpartition(".")[0] or full, {})[full] = parameter
    found = []
    for owner, parameters in layers.items():
        matrices = {name: p for name, p in parameters.items() if p.ndim >= 2}
        if len(matrices) == 1:
            matrices = {owner: next(iter(matrices.values()))}
        found.append(ParameterLayer(owner, parameters, matrices))
    return found


def find_groups(
    root: nn.Module, given: Mapping[str, str | Sequence[str]] | None, activations: Sequence[str] | None = None
) -> dict[str, str | Sequence[str]]:
    """Patterns of each group: those given, those of the protocol, or one group for each child with something to measure.

    The group `network` of everything is added unless it is defined.

    Args:
        root: the LightningModule.
        given: group name -> pattern or patterns.
        activations: patterns of the modules that count as activations, see `find_nonlinearities`.

    Raises:
        MisconfigurationException: if a pattern matches no module, or the module offers groups that it does not own.
    """
    names = [plain_name(name) for name, _ in root.named_modules() if name]
    if given is not None:
        try:
            match_groups(given, names)
        except ValueError as error:
            raise MisconfigurationException(f"groups={dict(given)}: {error}") from error
        groups: dict[str, str | Sequence[str]] = dict(given)
    elif isinstance(root, HasPlasticityGroups):
        groups = _offered_groups(root)
    else:
        measured = {layer.name for layer in find_nonlinearities(root, activations)}
        measured |= {layer.name for layer in find_parameter_layers(root)}
        groups = {
            name: [name, f"{name}.*"]
            for name, _ in root.named_children()
            if any(layer == name or layer.startswith(f"{name}.") for layer in measured)
        }
    groups.setdefault(NETWORK, "*")
    return groups


def layers_of_groups(groups: Mapping[str, str | Sequence[str]], layers: Sequence[str]) -> dict[str, list[str]]:
    """Those of `layers` that belong to each group; groups without one are left out."""
    found = {}
    for group, given in groups.items():
        patterns = [given] if isinstance(given, str) else list(given)
        chosen = [layer for layer in layers if any(fnmatchcase(layer, pattern) for pattern in patterns)]
        if chosen:
            found[group] = chosen
    return found


def _offered_groups(root: nn.Module) -> dict[str, str | Sequence[str]]:
    assert isinstance(root, HasPlasticityGroups)
    names = {id(module): plain_name(name) for name, module in root.named_modules()}
    groups: dict[str, str | Sequence[str]] = {}
    for group, offered in root.plasticity_groups().items():
        modules = [offered] if isinstance(offered, nn.Module) else list(offered)
        unknown = [type(module).__name__ for module in modules if id(module) not in names]
        if unknown or not modules:
            raise MisconfigurationException(
                f"plasticity_groups()[{group!r}] must name modules of {type(root).__name__}; "
                f"{unknown or 'none'} are no submodules of it"
            )
        groups[group] = [p for module in modules for n in [names[id(module)]] for p in ([n, f"{n}.*"] if n else ["*"])]
    return groups
