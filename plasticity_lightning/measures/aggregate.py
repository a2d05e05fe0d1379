"""From layers to module groups to the network: which layers belong together, and one number for them.

A group is a name and the layers in it, chosen by shell patterns over layer names (`critic: "critic.*"`); the group
`network` holds all. Values of layers are combined by the rule that the measure asks for (`MEASURES[name].combine`):
fractions of units by the number of units, norms by the root of the sum of squares, ranks by the mean. Tags follow
`plasticity/<measure>/<group>[/<layer>]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor

from plasticity_lightning.errors import nearest

__all__ = ["NETWORK", "Combination", "combine", "group_values", "match_groups", "tag"]

NETWORK = "network"
Combination = Literal["units", "mean", "root_sum_square", "max"]


def match_groups(
    patterns: Mapping[str, str | Sequence[str]], layers: Sequence[str], network: bool = True
) -> dict[str, list[str]]:
    """Layers of each group, in the order of `layers`.

    Args:
        patterns: group name -> shell pattern or patterns over layer names; `*` also matches dots.
        layers: names of the layers that are measured.
        network: add the group `network` of all layers, unless `patterns` defines one.

    Raises:
        ValueError: if a pattern matches no layer; it names the nearest layer.

    Example:
        >>> match_groups({"critic": "critic.*"}, ["actor.0", "critic.0", "critic.2"])
        {'critic': ['critic.0', 'critic.2'], 'network': ['actor.0', 'critic.0', 'critic.2']}
    """
    groups: dict[str, list[str]] = {}
    for group, given in patterns.items():
        chosen: set[str] = set()
        for pattern in [given] if isinstance(given, str) else given:
            matched = [layer for layer in layers if fnmatchcase(layer, pattern)]
            if not matched:
                raise ValueError(
                    f"pattern {pattern!r} of group {group!r} matches no layer; there are {list(layers)}"
                    f"{nearest(pattern, layers)}"
                )
            chosen.update(matched)
        groups[group] = [layer for layer in layers if layer in chosen]
    if network and NETWORK not in groups:
        groups[NETWORK] = list(layers)
    return groups


def combine(
    values: Sequence[Tensor], rule: Combination = "mean", units: Sequence[int] | Tensor | None = None
) -> Tensor:
    """One number for several layers; scalar float64.

    Args:
        values: scalar of each layer.
        rule: "units": mean weighted by `units`; "mean": plain mean; "root_sum_square": sqrt(sum v^2), the norm of the
            layers together; "max".
        units: size of each layer, for rule "units": its units, or for `fau` its activation entries; numbers, or a
            tensor [layers], whose values are not looked at.

    Raises:
        ValueError: if there is no value, the rule is unknown, or rule "units" lacks a size for each layer.

    A layer whose value is NaN makes the combination NaN: a diverged layer is not averaged away.
    """
    if not values:
        raise ValueError("nothing to combine: values is empty")
    stacked = torch.stack([v.detach().double() for v in values])
    if rule == "units":
        if units is None or len(units) != len(values) or (not isinstance(units, Tensor) and sum(units) <= 0):
            raise ValueError(f"rule 'units' needs one size per layer: {len(values)} layers, units={units}")
        weights = torch.as_tensor(units, dtype=torch.float64, device=stacked.device)
        return (stacked * weights).sum() / weights.sum()
    if rule == "mean":
        return stacked.mean()
    if rule == "root_sum_square":
        return torch.linalg.vector_norm(stacked)
    if rule == "max":
        return stacked.max()
    raise ValueError(f"rule={rule!r} must be one of 'units', 'mean', 'root_sum_square', 'max'")


def group_values(
    values: Mapping[str, Tensor],
    groups: Mapping[str, Sequence[str]],
    rule: Combination = "mean",
    units: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Value of each group from the values of its layers.

    Args:
        values: layer name -> scalar.
        groups: group name -> its layers, as `match_groups` gives.
        rule: see `combine`.
        units: layer name -> size, for rule "units".

    Raises:
        ValueError: if a group names a layer without a value.
    """
    out = {}
    for group, layers in groups.items():
        missing = [layer for layer in layers if layer not in values or (units is not None and layer not in units)]
        if missing:
            raise ValueError(
                f"group {group!r} names layers without a value or size: {missing}; there are {list(values)}"
            )
        sizes = None if units is None else [units[layer] for layer in layers]
        out[group] = combine([values[layer] for layer in layers], rule, sizes)
    return out


def tag(measure: str, group: str, layer: str | None = None) -> str:
    """Log tag `plasticity/<measure>/<group>` or, for one layer, `plasticity/<measure>/<group>/<layer>`."""
    return "/".join(["plasticity", measure, group] + ([] if layer is None else [layer]))
