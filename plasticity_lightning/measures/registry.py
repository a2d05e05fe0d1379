"""The list of measures: what each one needs, where it applies, how it reduces and combines, what it costs.

A monitor does everything by these entries and knows no measure by name, so a measure of a user's own is one entry more,
`Measure(function)`, given to it directly or by import path. `plasticity diagnose` and the docs print the list. The
functions themselves are in the files of this package; an entry names the function and repeats nothing of its definition.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from plasticity_lightning.errors import nearest
from plasticity_lightning.measures import (
    activity,
    curvature,
    gradients,
    kernel,
    ntk,
    rank,
    spiking,
    trainability,
    weights,
)
from plasticity_lightning.measures.aggregate import Combination
from plasticity_lightning.measures.nonlinearities import Kind, NonlinearityKind

__all__ = [
    "ACTIVITY",
    "MEASURES",
    "Cost",
    "Direction",
    "Given",
    "Measure",
    "Memory",
    "Needs",
    "as_measure",
    "chosen_measures",
    "measure_named",
]

Needs = Literal["activations", "preactivations", "spikes", "weights", "gradients", "probe"]
Given = Literal["itself", "counts", "initial", "steps"]
ACTIVITY = ("activations", "preactivations", "spikes")  # of one forward pass, by hooks
_GIVEN: dict[str, tuple[Given, ...]] = {"spikes": ("itself", "counts"), "weights": ("itself", "initial", "steps")}
_OPTIONS = {
    "activations": ("tau", "function"),
    "preactivations": ("tau", "function"),
    "spikes": ("duration",),
    "probe": ("targets", "loss", "optimizer", "task", "steps"),
}
Direction = Literal["higher", "lower", "neither"]
Cost = Literal["cheap", "moderate", "expensive"]


@dataclass(frozen=True)
class Memory:
    """For a measure that is carried from one measurement of a layer to the next.

    Args:
        step: (what the measure needs, state or None) -> (value or None, state); None takes the measure's function. The
            state is a tensor or a (named) tuple of tensors and tuples of tensors.
        pause: state -> state where the next measurement will not follow this one at once.
    """

    step: Callable[..., tuple[Any, Any]] | None = None
    pause: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Measure:
    """A measure, and what a monitor must know about it.

    Args:
        function: the pure function. It gets what `needs` says and returns a scalar tensor.
        needs: "activations": the output [B, units, ...] of a nonlinearity; "preactivations": its input of that shape,
            and the nonlinearity as a function; "spikes": 0/1 tensor [T, B, N] of a spiking layer; "weights": a matrix or
            kernel [out, in, ...]; "gradients": the gradients of a layer's parameters, a list; "probe": the network and
            the inputs of a fixed batch, and what `options` name.
        better: "higher" or "lower" means more plastic; "neither" is a symptom to be read with others.
        cost: "cheap": at every logging step; "moderate" (a decomposition or a copy): every few hundred steps;
            "expensive" (many backward passes): every epoch or less, off by default.
        combine: how the values of layers make that of a group, see `aggregate.combine`; None if the measure is of the
            whole network or liquid.
        description: one line; empty takes the first of the function's docstring.
        name: in tags; empty takes the function's.
        on: with activations: the nonlinearities behind which it means something.
        given: of that, with spikes "counts": per recording, int64 [B, N]; with weights "initial": a matrix and its first
            value, or "steps": a matrix before and after an optimiser step; else "itself".
        reduce: how several calls, batches and processes make one value, unless the function is `accumulated`: "mean" of
            the values, or "share": the value is a share of entries, whose counts add up.
        options: names of further keyword arguments that the function takes from the monitor: `tau`; `function`, the
            name of the nonlinearity; `duration` of a recording in ms; for a probe `targets`, `loss`, `optimizer`,
            `task`, `steps`, without which it gets the network and the inputs.
        read: makes a scalar of what the function returns, or, but of activations, several under names of their own.
        memory: of a measure that is carried on.
        share: the value lies between 0 and 1.
        samples: recordings that it needs at least; batches with fewer are left out.
        elsewhere: why no monitor can measure it, and what can.

    Raises:
        ValueError: if a value is none of those allowed, or the function has no name and `name` gives none.
    """

    function: Callable[..., Any]
    needs: Needs = "activations"
    better: Direction = "neither"
    cost: Cost = "moderate"
    combine: Combination | None = "mean"
    description: str = ""
    name: str = ""
    on: Kind = "any"
    given: Given = "itself"
    reduce: Literal["mean", "share"] = "mean"
    options: tuple[str, ...] = ()
    read: Callable[[Any], Tensor | Mapping[str, Tensor]] | None = None
    memory: Memory | None = None
    share: bool = False
    samples: int = 1
    elsewhere: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", getattr(self.function, "__name__", ""))
        if not self.name.isidentifier():
            raise ValueError(f"name={self.name!r} of a measure must be an identifier: give Measure(function, name=...)")
        allowed = {
            "needs": get_args(Needs),
            "better": get_args(Direction),
            "cost": get_args(Cost),
            "combine": (*get_args(Combination), None),
            "on": get_args(Kind),
            "given": _GIVEN.get(self.needs, ("itself",)),
            "reduce": ("mean", "share"),
        }
        for argument, values in allowed.items():
            value = getattr(self, argument)
            if value not in values:
                close = nearest(str(value), [v for v in values if v])
                raise ValueError(f"measure {self.name!r}: {argument}={value!r} must be one of {list(values)}{close}")
        unknown = [name for name in self.options if name not in _OPTIONS.get(self.needs, ())]
        if unknown:
            raise ValueError(
                f"measure {self.name!r}: options={list(self.options)} must be among "
                f"{list(_OPTIONS.get(self.needs, ()))}, which needs={self.needs!r} offers"
            )
        if not self.description:
            documented = (self.function.__doc__ or "").strip().splitlines()
            object.__setattr__(self, "description", documented[0].rstrip(".") if documented else self.name)

    @property
    def definition(self) -> Callable[..., Any]:
        """The function as its module has it now, so that whoever replaces it there, replaces it here."""
        name = getattr(
            self.function, "__qualname__", ""
        )  # with dots in it the function belongs to no module's top level
        module = sys.modules.get(getattr(self.function, "__module__", None) or "")
        return getattr(module, name, self.function)

    def applies(self, kind: NonlinearityKind) -> bool:
        """Whether it is a measure of layers' activity that means something behind this nonlinearity."""
        spikes = self.needs != "spikes" or kind.admits("spiking")
        return self.needs in ACTIVITY and spikes and kind.admits(self.on)

    def values(self, result: Any) -> dict[str, Tensor]:
        """Name -> scalar of what the function returned."""
        read = result if self.read is None else self.read(result)
        return dict(read) if isinstance(read, Mapping) else {self.name: read}


def measure_named(name: str) -> Measure:
    """Entry `name` of `MEASURES`, or a `Measure` or function by import path.

    Raises:
        ValueError: for an unknown name, with the nearest one, and for a path that leads to neither.
    """
    if name in MEASURES:
        return MEASURES[name]
    if "." not in name:
        raise ValueError(f"measure {name!r} is unknown; there are {sorted(MEASURES)}{nearest(name, MEASURES)}")
    path, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(path), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"measure {name!r} is neither in the list nor an import path: {error}") from error
    return as_measure(found, name)


def as_measure(given: object, told: str | None = None) -> Measure:
    """A `Measure` as it is, a name or import path looked up, a function as an entry with the defaults."""
    if isinstance(given, str):
        return measure_named(given)
    if isinstance(given, Measure):
        return given
    if callable(given) and not isinstance(given, type):
        return Measure(given)
    raise ValueError(f"measure {told or given!r} must be a name, a Measure or a function of activations, got {given!r}")


def chosen_measures(given: Sequence[Any]) -> dict[str, Measure]:
    """Name -> entry of names, import paths, `Measure`s and functions, in their order, each once.

    Raises:
        ValueError: if one is unknown, or two differ and have one name.
    """
    chosen: dict[str, Measure] = {}
    for one in given:
        measure = as_measure(one)
        if chosen.setdefault(measure.name, measure) != measure or MEASURES.get(measure.name, measure) != measure:
            raise ValueError(f"measures: two different ones are named {measure.name!r}; give one another name=")
    return chosen


def _of_eigenpair(pair: curvature.Eigenpair) -> dict[str, Tensor]:
    return {"sharpness": pair.value, "sharpness_residual": pair.residual}


def _ratio(result: trainability.ProbeResult) -> Tensor:
    return result.ratio


def _listed(*measures: Measure) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures}


# fmt: off
MEASURES: dict[str, Measure] = _listed(
    # activity
    Measure(activity.fau, "activations", "higher", "cheap", "units", "active share of (sample, unit) pairs",
            on="signed", reduce="share", share=True),
    Measure(activity.ever_active, "activations", "higher", "cheap", "units", "units active for at least one sample",
            on="signed", share=True),
    Measure(activity.dormant, "activations", "lower", "cheap", "units", "units far below the layer's mean activity",
            options=("tau",), share=True),
    Measure(activity.saturated, "activations", "lower", "cheap", "units", "entries at the bound of the nonlinearity",
            on="bounded", reduce="share", options=("function",), share=True),
    Measure(activity.zero_grad_units, "preactivations", "lower", "cheap", "units", "units that pass no gradient",
            on="elementwise", share=True),
    Measure(activity.activation_norm, "activations", "neither", "cheap", "mean", "mean norm of the feature vectors"),
    # features
    Measure(rank.srank, "activations", "higher", "moderate", "mean", "singular values for 99 % of their sum"),
    Measure(rank.effective_rank, "activations", "higher", "moderate", "mean", "exp entropy of the singular values"),
    Measure(rank.stable_rank, "activations", "higher", "moderate", "mean", "squared Frobenius over spectral norm"),
    Measure(rank.pca_rank, "activations", "higher", "moderate", "mean", "components for 99 % of the power"),
    # weights, gradients, steps
    Measure(weights.weight_norm, "weights", "neither", "cheap", "root_sum_square", "L2 norm of weights"),
    Measure(weights.weight_rms, "weights", "neither", "cheap", "mean", "root mean square of weights"),
    Measure(weights.distance_from_init, "weights", "neither", "moderate", "mean",
            "relative distance from the first weights", given="initial"),
    Measure(weights.spectral_norm, "weights", "neither", "cheap", "max", "largest singular value of the weights",
            memory=Memory()),
    Measure(weights.update_ratio, "weights", "neither", "moderate", "mean", "relative size of the last step",
            given="steps"),
    Measure(gradients.grad_norm, "gradients", "neither", "cheap", "root_sum_square", "L2 norm of the gradients"),
    Measure(gradients.grad_sparsity, "gradients", "lower", "cheap", "units", "exact zeros among the gradients",
            share=True),
    Measure(gradients.grad_direction, "gradients", "neither", "moderate", "mean", "cosine and sign flips between steps",
            memory=Memory(gradients.follow_direction, gradients.pause_direction)),
    # the network on a probe batch
    Measure(ntk.ntk_rank, "probe", "higher", "expensive", None, "effective rank of the gradient Gram matrix",
            options=("targets", "loss")),
    Measure(curvature.sharpness, "probe", "lower", "expensive", None, "largest eigenvalue of the Hessian",
            options=("targets", "loss"),
            read=_of_eigenpair),
    Measure(curvature.hessian_rank, "probe", "higher", "expensive", None, "eigenvalues above 1 % of the largest",
            options=("targets", "loss")),
    Measure(trainability.probe_loss, "probe", "lower", "expensive", None,
            "loss on random targets relative to a fresh network",
            options=("optimizer", "task", "steps"), read=_ratio),
    # spikes
    Measure(spiking.silent, "spikes", "lower", "cheap", "units", "neurons without a spike", on="spiking", share=True, given="counts"),
    Measure(spiking.firing_rate, "spikes", "neither", "cheap", "units", "rates in Hz",
            on="spiking", options=("duration",), read=torch.mean, given="counts"),
    Measure(spiking.rate_cv, "spikes", "neither", "cheap", "mean", "variation of rates across neurons", on="spiking", given="counts"),
    Measure(spiking.isi_cv, "spikes", "neither", "moderate", "mean", "irregularity of spike trains", on="spiking"),
    Measure(spiking.fano, "spikes", "neither", "cheap", "mean", "variance over mean of spike counts",
            on="spiking", samples=2, given="counts"),
    Measure(spiking.synchrony, "spikes", "neither", "cheap", "mean", "population variance over independence",
            on="spiking"),
    Measure(spiking.participation_ratio, "spikes", "higher", "moderate", "mean", "dimensions over which rates vary",
            on="spiking", samples=2, given="counts"),
    Measure(spiking.branching_factor, "spikes", "neither", "moderate", None, "descendant over ancestor spikes",
            elsewhere="it needs the connections of a liquid: use LiquidMonitor"),
    Measure(kernel.separation_rank, "spikes", "higher", "expensive", None, "rank of the counts of different inputs",
            elsewhere="it needs items of known classes: call measures.separation_rank", given="counts"),
    Measure(kernel.approximation_rank, "spikes", "lower", "expensive", None, "rank of the counts of noisy inputs",
            elsewhere="it needs noisy items: call measures.approximation_rank", given="counts"),
)
# fmt: on
