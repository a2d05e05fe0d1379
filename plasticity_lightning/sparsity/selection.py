"""Which parameters of a module are masked? By layer type, name pattern and position; shared ones once.

Names are those of `module.named_parameters()` without the compiler's `_orig_mod.`; patterns are shell globs on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, get_args

from torch import nn

__all__ = ["LayerPolicy", "floors_by_name", "plain_name", "select_parameters"]

LayerPolicy = Literal["sparse", "dense"]


def plain_name(name: str) -> str:
    """The parameter's name as it is without `torch.compile`."""
    return name.replace("_orig_mod.", "")


def select_parameters(
    module: nn.Module,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    types: Sequence[str] = ("Linear", "_ConvNd"),
    first_layer: LayerPolicy = "sparse",
    last_layer: LayerPolicy = "sparse",
) -> dict[str, nn.Parameter]:
    """The weights to mask, by name, in the order of definition.

    Args:
        module: searched with all its children.
        include: glob patterns of parameter names; None means all. A name without wildcards that is a parameter's whole
            name selects it whatever its layer and although it may not require gradients (a weight under a local rule).
        exclude: glob patterns of parameter names that stay dense.
        types: class names of the layers whose `weight` is taken; base classes count, so `_ConvNd` is any convolution.
        first_layer: "dense" leaves the first selected weight out.
        last_layer: "dense" leaves the last one out.

    Returns:
        Parameters with at least two dimensions; one that several layers share appears once, under its first name.

    Raises:
        ValueError: if nothing is selected, a pattern matches no parameter, or a policy is unknown.
    """
    for name, policy in (("first_layer", first_layer), ("last_layer", last_layer)):
        if policy not in get_args(LayerPolicy):
            raise ValueError(f"{name} must be one of {', '.join(get_args(LayerPolicy))}, got {policy!r}")
    parameters = {plain_name(name): parameter for name, parameter in module.named_parameters()}
    for argument, patterns in (("include", include or ()), ("exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in parameters):
                raise ValueError(f"{argument}={pattern!r} matches no parameter; parameters: {list(parameters)[:20]}")
    of_type = {
        id(layer.weight)
        for layer in module.modules()
        if {base.__name__ for base in type(layer).__mro__} & set(types) and hasattr(layer, "weight")
    }
    selected = {}
    for name, parameter in parameters.items():
        by_name = include is not None and name in include
        by_rule = id(parameter) in of_type and parameter.requires_grad and (include is None or _any(name, include))
        if parameter.ndim >= 2 and (by_name or by_rule):
            selected[name] = parameter
    names = list(selected)
    dense = set(names[:1] if first_layer == "dense" else []) | set(names[-1:] if last_layer == "dense" else [])
    selected = {n: p for n, p in selected.items() if n not in dense and not _any(n, exclude)}
    if not selected:
        raise ValueError(
            f"no weight is left to mask with include={include}, exclude={list(exclude)}, types={list(types)}; "
            f"parameters: {list(parameters)[:20]}"
        )
    return selected


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


def _any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
