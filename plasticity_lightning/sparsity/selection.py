"""Which parameters of a module are masked? By kind of layer, name pattern and position; shared ones once.

Names are those of `module.named_parameters()` without the compiler's `_orig_mod.`; patterns are shell globs on them.
`survey` gives every matrix of a module its fate and the reason, so that nothing is left dense in silence.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

__all__ = [
    "LAYER_KINDS",
    "Fate",
    "LayerKind",
    "LayerPolicy",
    "Selection",
    "floors_by_name",
    "layer_weights",
    "plain_name",
    "select_parameters",
    "survey",
]

LayerPolicy = Literal["sparse", "dense"]


class LayerKind(NamedTuple):
    """Where a kind of layer keeps its matrices."""

    weights: tuple[str, ...] = ("weight",)
    """Patterns of the attributes' names."""
    outputs_first: bool = True
    """Whether dimension 0 counts outputs and dimension 1 inputs; not so in transposed convolutions and HF's Conv1D."""


# by class name, so that a library that is not installed needs no import; the first base class with an entry counts
LAYER_KINDS: dict[str, LayerKind] = {
    "Linear": LayerKind(),
    "_ConvTransposeNd": LayerKind(outputs_first=False),
    "_ConvNd": LayerKind(),
    "Conv1D": LayerKind(outputs_first=False),  # of transformers, in GPT-2; torch's is a _ConvNd
    "RNNBase": LayerKind(("weight_*",)),
    "RNNCellBase": LayerKind(("weight_*",)),
    "MultiheadAttention": LayerKind(("in_proj_weight", "[qkv]_proj_weight")),
}
_COMPUTED = "zeros would not act as zeros, or make a unit without inputs NaN: the weight is computed by {}"


@dataclass(frozen=True)
class Selection:
    """What is to be masked.

    Attributes:
        include: glob patterns of parameter names; None means all. A pattern that matches no weight of a known layer takes
            whatever it matches: raw matrices, stacks of experts. A name without wildcards that is a parameter's whole
            name selects it whatever its layer and although it may not require gradients (a weight under a local rule).
        exclude: glob patterns of parameter names that stay dense.
        types: class names of layers whose weights are taken; base classes count, so `_ConvNd` is any convolution. Of
            classes that are not in `LAYER_KINDS` it is the `weight`.
        first_layer: "dense" leaves the first selected weight out.
        last_layer: "dense" leaves the last one out.
        structure: as in `Method`: it counts inputs along dimension 1, so layers that keep outputs there are refused.

    Raises:
        ValueError: if a policy is unknown.
    """

    include: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    types: Sequence[str] = tuple(LAYER_KINDS)
    first_layer: LayerPolicy = "sparse"
    last_layer: LayerPolicy = "sparse"
    structure: str | None = None

    def __post_init__(self) -> None:
        """Check the policies."""
        for name in ("first_layer", "last_layer"):
            if getattr(self, name) not in get_args(LayerPolicy):
                allowed = ", ".join(get_args(LayerPolicy))
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")


class Fate(NamedTuple):
    """What happens to one parameter, and why."""

    parameter: nn.Parameter
    masked: bool
    reason: str = ""
    """Why it is dense; for masked parameters through what they act, or empty."""
    kind: LayerKind | None = None
    """Of its layer; None if it belongs to none of the types."""


def plain_name(name: str) -> str:
    """The parameter's name as it is without `torch.compile`."""
    return name.replace("_orig_mod.", "")


def select_parameters(module: nn.Module, selection: Selection | None = None) -> dict[str, nn.Parameter]:
    """The weights to mask, by name, in the order of definition.

    Returns:
        Parameters with at least two dimensions; one that several layers share appears once, under its first name.

    Raises:
        ValueError: if nothing is selected, a pattern matches no parameter, or a structure does not fit.
    """
    selection = selection or Selection()
    fates = survey(module, selection)
    selected = {name: fate.parameter for name, fate in fates.items() if fate.masked}
    if not selected:
        dense = {name: fate.reason for name, fate in fates.items()}
        raise ValueError(
            f"no weight is left to mask with include={selection.include}, exclude={list(selection.exclude)}, "
            f"types={list(selection.types)}; matrices: {dict(list(dense.items())[:20])}"
        )
    return selected


def survey(module: nn.Module, selection: Selection | None = None) -> dict[str, Fate]:
    """The fate of every parameter with at least two dimensions, by name, in the order of definition.

    Args:
        module: searched with all its children.
        selection: what is to be masked.

    Raises:
        ValueError: as `select_parameters`, but for an empty selection.
    """
    selection = selection or Selection()
    parameters = {plain_name(name): p for name, p in module.named_parameters()}
    _check_patterns(selection, parameters)
    matrices = {name: p for name, p in parameters.items() if p.ndim > 1}
    found = {id(p): (kind, note) for p, kind, note in _typed(module, selection.types)}
    refused = {id(p): reason for p, reason in _refused(module, selection.types)}
    of_layers = {name for name, p in matrices.items() if id(p) in found and p.requires_grad}
    chosen = _chosen(selection, matrices, of_layers)
    names = [name for name in matrices if name in chosen]
    ends = {name: "the first layer is kept dense" for name in names[:1] if selection.first_layer == "dense"}
    ends |= {name: "the last layer is kept dense" for name in names[-1:] if selection.last_layer == "dense"}
    fates: dict[str, Fate] = {}
    for name, p in matrices.items():
        kind, note = found.get(id(p), (None, ""))
        if name in chosen:
            reason = "excluded" if _any(name, selection.exclude) else ends.get(name, "")
            if not reason and selection.structure is not None and (kind is None or not kind.outputs_first):
                raise ValueError(
                    f"structure={selection.structure!r} counts the inputs of outputs in dimension 0; {name} "
                    f"{tuple(p.shape)} is {'no layer that is known' if kind is None else 'laid out [in, out]'}: exclude it"
                )
            fates[name] = Fate(p, not reason, reason or note, kind)
        else:
            fates[name] = Fate(p, False, _why_dense(p, selection, refused.get(id(p)), kind), kind)
    return fates


def layer_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """The matrices of all layers of a known kind, trained or not, by name."""
    found = {id(p) for p, _, _ in _typed(module, tuple(LAYER_KINDS))}
    return {plain_name(name): p for name, p in module.named_parameters() if id(p) in found}


def floors_by_name(floors: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """The lowest density of every name that a pattern matches; the last matching pattern counts.

    Raises:
        ValueError: if a pattern matches no name or a floor is outside [0, 1].
    """
    names = list(names)
    result: dict[str, float] = {}
    for pattern, floor in floors.items():
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise ValueError(f"min_density={pattern!r} matches no masked weight; masked: {names[:20]}")
        if not 0 <= floor <= 1:
            raise ValueError(f"min_density of {pattern!r} is {floor}; it must lie in [0, 1]")
        result |= dict.fromkeys(matching, floor)
    return result


def _check_patterns(selection: Selection, names: Iterable[str]) -> None:
    names = list(names)
    for argument, patterns in (("include", selection.include or ()), ("exclude", selection.exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"{argument}={pattern!r} matches no parameter; parameters: {names[:20]}")


def _chosen(selection: Selection, matrices: Mapping[str, nn.Parameter], of_layers: set[str]) -> set[str]:
    """Names that the patterns choose, before any is left out."""
    if selection.include is None:
        return of_layers
    chosen = {name for name in selection.include if name in matrices}
    for pattern in selection.include:
        matching = {name for name in matrices if fnmatchcase(name, pattern) and matrices[name].requires_grad}
        if not matching and pattern not in chosen:
            raise ValueError(
                f"include={pattern!r} matches only parameters that are frozen or have fewer than two dimensions"
            )
        chosen |= (matching & of_layers) or matching
    return chosen


def _typed(module: nn.Module, types: Sequence[str]) -> Iterator[tuple[nn.Parameter, LayerKind, str]]:
    """Parameters of layers of these types: (parameter, kind, how the acting weight comes of it)."""
    for layer in module.modules():
        kind = _kind(layer, types)
        if kind is None:
            continue
        for name, parameter in layer._parameters.items():
            if parameter is None:
                continue
            if _any(name, kind.weights):
                yield parameter, kind, ""
            elif name == "weight_orig":  # of torch.nn.utils.spectral_norm and prune
                yield parameter, kind, "acts through an old-style hook"
        for name, parametrization in getattr(layer, "parametrizations", {}).items():
            if _any(name, kind.weights):
                for parameter in _keeping_zeros(parametrization):
                    yield parameter, kind, f"acts through {type(parametrization[0]).__name__.strip('_')}"


def _refused(module: nn.Module, types: Sequence[str]) -> Iterator[tuple[nn.Parameter, str]]:
    """Parameters of such layers of which no zeros can be made, with the reason."""
    for layer in module.modules():
        kind = _kind(layer, types)
        if kind is None:
            continue
        for name, parameter in layer._parameters.items():
            if parameter is not None and name == "weight_v":
                yield parameter, _COMPUTED.format("weight_norm")
        for name, parametrization in getattr(layer, "parametrizations", {}).items():
            kept = {id(p) for p in _keeping_zeros(parametrization)} if _any(name, kind.weights) else set()
            for parameter in parametrization.parameters():
                if id(parameter) not in kept:
                    yield parameter, _COMPUTED.format(type(parametrization[0]).__name__.strip("_"))


def _kind(layer: nn.Module, types: Sequence[str]) -> LayerKind | None:
    names = [base.__name__ for base in type(layer).__mro__]
    if not set(names) & set(types):
        return None
    return next((LAYER_KINDS[name] for name in names if name in LAYER_KINDS), LayerKind())


@torch.no_grad()
def _keeping_zeros(parametrization: nn.Module) -> list[nn.Parameter]:
    """Originals of a weight (of its shape) whose zeros are zeros of the weight, exactly and nowhere else, by trial.

    One unit has no inputs in the trial: weight norm would divide by its length of 0.
    """
    trial = copy.deepcopy(parametrization).eval()  # spectral norm changes its buffers in training
    generator = torch.Generator().manual_seed(0)
    kept = []
    for name, original in parametrization.named_parameters(recurse=False):
        stand_in: Tensor = getattr(trial, name)
        if original.ndim < 2 or original.shape != trial().shape:
            continue
        before = stand_in.clone()
        mask = torch.rand(original.shape, generator=generator) < 0.5
        mask[0] = False
        mask = mask.to(original.device)
        stand_in.copy_(torch.where(mask, before.abs() + 1, torch.zeros_like(before)))
        if torch.equal(trial() != 0, mask):
            kept.append(getattr(parametrization, name))
        stand_in.copy_(before)
    return kept


def _why_dense(p: nn.Parameter, selection: Selection, refused: str | None, kind: LayerKind | None) -> str:
    if not p.requires_grad:
        return "frozen"
    if refused:
        return refused
    if kind is not None:
        return "include does not name it"
    return "no layer of the types; a pattern of its own in include takes it"


def _any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
