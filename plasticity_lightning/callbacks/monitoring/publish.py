"""From values of layers to what others see: tags for the Trainer's metrics, and TensorBoard's histograms, charts and maps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from plasticity_lightning.callbacks.monitoring.activations import LayerValues
from plasticity_lightning.callbacks.monitoring.layers import layers_of_groups
from plasticity_lightning.measures.aggregate import NETWORK, Combination, combine, tag
from plasticity_lightning.measures.registry import Measure
from plasticity_lightning.runtime.lightning_classes import is_lightning

__all__ = ["History", "add_chart_layout", "add_heat_map", "add_histograms", "tagged"]


def tagged(
    measure: str,
    found: LayerValues,
    rule: Combination,
    groups: Mapping[str, str | Sequence[str]],
    per_layer: bool,
) -> dict[str, Tensor]:
    """Tag -> float32 scalar of each group, and with `per_layer` of each layer.

    A layer is tagged under each of its groups, under `network` only if it has no other.
    """
    values: dict[str, Tensor] = {}
    members_of = layers_of_groups(groups, list(found.values))
    elsewhere = {layer for group, layers in members_of.items() if group != NETWORK for layer in layers}
    for group, layers in members_of.items():
        members = [found.values[layer] for layer in layers]
        sizes = None
        if rule == "units":
            sizes = torch.stack([found.sizes[layer].to(members[0].device) for layer in layers])
        values[tag(measure, group)] = combine(members, rule, sizes).float()
        if per_layer:
            own = [layer for layer in layers if group != NETWORK or layer not in elsewhere]
            values.update({tag(measure, group, layer): found.values[layer].float() for layer in own})
    return values


class History:
    """Values of one measure by layer and batch, for the heat map. Old columns are thinned out evenly, none is moved.

    Args:
        limit: columns kept at most; beyond it every second one is dropped.
    """

    def __init__(self, limit: int = 1024) -> None:
        self.limit = limit
        self.steps: list[int] = []
        self.rows: list[dict[str, float]] = []
        self._waiting: list[tuple[int, list[str], Tensor]] = []

    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Append a column; its values stay on their device until somebody looks."""
        self._waiting.append((step, list(values), torch.stack([v.double() for v in values.values()])))
        if len(self._waiting) >= 256:
            self._drain()

    def table(self) -> tuple[Tensor, list[int], list[str]]:
        """(values [L, T] with NaN where a layer has none, steps, layers)."""
        self._drain()
        layers = list(dict.fromkeys(layer for row in self.rows for layer in row))
        columns = [[row.get(layer, torch.nan) for row in self.rows] for layer in layers]
        return torch.tensor(columns, dtype=torch.float64).reshape(len(layers), len(self.steps)), self.steps, layers

    def state_dict(self) -> dict[str, Any]:
        """Steps, layers and the table."""
        values, steps, layers = self.table()
        return {"values": values, "steps": list(steps), "layers": layers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the columns up again."""
        self.steps, self._waiting = list(state["steps"]), []
        columns = state["values"].T.tolist() if state["layers"] else [[] for _ in self.steps]
        self.rows = [
            {layer: v for layer, v in zip(state["layers"], column, strict=True) if v == v} for column in columns
        ]

    def _drain(self) -> None:
        if not self._waiting:
            return
        flat = iter(torch.cat([values for _, _, values in self._waiting]).tolist())  # one transfer for all
        for step, layers, _ in self._waiting:
            self.steps.append(step)
            self.rows.append({layer: next(flat) for layer in layers})
        self._waiting = []
        while len(self.steps) > self.limit:
            self.steps, self.rows = self.steps[::2], self.rows[::2]


def add_chart_layout(trainer: pl.Trainer, groups: Sequence[str], measures: Mapping[str, Measure]) -> None:
    """TensorBoard's custom scalars: a chart a group with the measures that are shares, one a measure for the others.

    Shares lie between 0 and 1 and can stand in one chart; of the others each has its scale, so that the groups stand
    together. Charts name tags by regular expressions, so that the layout is complete before the first value;
    TensorBoard reads only the first layout of a run.
    """
    shares = [name for name, measure in measures.items() if measure.share]
    charts: dict[str, list[Any]] = {}
    if shares:
        names = "|".join(re.escape(measure) for measure in shares)
        for group in groups:
            charts[f"shares of {group}"] = ["Multiline", [rf"^plasticity/({names})/{re.escape(group)}$"]]
    any_group = "|".join(re.escape(group) for group in groups)
    for measure in measures:
        if measure not in shares:
            charts[measure] = ["Multiline", [rf"^plasticity/{re.escape(measure)}/({any_group})$"]]
    for experiment in _experiments(trainer):
        experiment.add_custom_scalars({"plasticity": charts})


def add_histograms(
    trainer: pl.Trainer, rates: Mapping[str, Tensor], groups: Mapping[str, str | Sequence[str]], step: int
) -> None:
    """Histogram `plasticity/unit_activity/<group>` of the share of samples at which each unit of a group is active."""
    for experiment in _experiments(trainer):
        for group, layers in layers_of_groups(groups, list(rates)).items():
            units = torch.cat([rates[layer].float().cpu() for layer in layers])
            if bool(units.isfinite().all()):
                experiment.add_histogram(tag("unit_activity", group), units, step)


def add_heat_map(trainer: pl.Trainer, history: History, measure: str, step: int) -> None:
    """Figure `plasticity/<measure>/layers`: layers by time."""
    values, steps, layers = history.table()
    if not values.numel():
        return
    for experiment in _experiments(trainer):
        from plasticity_lightning.viz.plasticity import layer_heat_map  # matplotlib is slow to import

        experiment.add_figure(f"plasticity/{measure}/layers", layer_heat_map(values, steps, layers, measure), step)


def _experiments(trainer: pl.Trainer) -> Iterator[Any]:
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            if is_lightning(logger, "TensorBoardLogger"):
                yield logger.experiment
