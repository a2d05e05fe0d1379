"""Sparse training methods as choices of the same parts: a preset is a handful of options, each can be overridden.

Start and end of a phase are fractions of training (0.5) or text with a unit ("1000 steps", "80 epochs"). Steps are
steps of the optimiser that updates the masked weights.

Sources: Zhu & Gupta 2017 (gmp), Mocanu et al. 2018 (set), Evci et al. 2020 (rigl), Liu et al. 2021a (rigl_itop),
Liu et al. 2021b (granet), Lee et al. 2019 (snip), Wang et al. 2020 (grasp), Lasby et al. 2024 (srigl).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

from plasticity_lightning.errors import nearest
from plasticity_lightning.schedules import ScheduleName
from plasticity_lightning.sparsity.allocation import AllocationName
from plasticity_lightning.sparsity.layer import Criterion
from plasticity_lightning.sparsity.structured import parse_structure

__all__ = [
    "PRESETS",
    "DropName",
    "GrowName",
    "InitName",
    "MaskMoments",
    "Method",
    "MethodName",
    "Moment",
    "PruneScheduleName",
    "PruneScope",
    "ScoreName",
    "make_method",
    "parse_moment",
]

MethodName = Literal[
    "granet",
    "granet_s2s",
    "gmp",
    "rigl",
    "rigl_itop",
    "srigl",
    "set",
    "snip",
    "grasp",
    "static_erk",
    "static_random",
    "dense",
]
InitName = Literal["random", "magnitude", "nonzero", "snip", "grasp"]
PruneScope = Literal["global", "uniform", "er", "erk"]
PruneScheduleName = Literal["linear", "cosine", "cubic"]  # a constant one would never reach the sparsity
ScoreName = Literal["magnitude", "taylor", "random"]
DropName = Literal["magnitude", "taylor", "random", "sign", "threshold"]
GrowName = Literal["gradient", "momentum", "random", "none"]
MaskMoments = Literal["update", "step"]
Moment = float | str


@dataclass(frozen=True)
class Method:
    """What is done when; the defaults do nothing after the initial masks.

    Attributes:
        sparsity: at the end, share of zeros among the masked weights, in [0, 1).
        initial_sparsity: at the start; None means `sparsity`.
        init_by: how the initial masks are chosen: `random`, `magnitude` (largest |w|), `nonzero` (what is not 0, to go
            on with a sparse network), `snip` or `grasp` (from the gradients of the first batches).
        allocation: layers' shares of the initial masks; `global` ranks all layers together (not for `random`).
        prune: layers' shares in gradual pruning, or `none`.
        prune_by: criterion of gradual pruning: a name, or a function of a `Layer` whose highest scores stay.
        prune_schedule: of the sparsity, from `initial_sparsity` to `sparsity`.
        prune_start: first event of gradual pruning.
        prune_end: last event.
        drop_by: criterion of regeneration's removal, likewise.
        drop_threshold: of the criterion `threshold`.
        grow_by: criterion of growth, or `none`; of a function the highest scores come.
        prune_rate: share of each layer's living weights that regeneration replaces, at the start; 0 means never.
        prune_rate_final: at the end of regeneration.
        prune_rate_schedule: in between.
        regrow_start: first regeneration.
        regrow_end: regeneration takes place before it.
        every: steps between updates, at least 1.
        structure: None, "n:m" or "fan_in".
        ablate_below: SRigL's gamma: at regeneration a neuron is ablated that has fewer salient weights than this share of
            its layer's fan-in (`sparsity.ablation`); one that has as many again returns. 0 ablates none. Needs "fan_in".
        reach_final: the last pruning event reaches `sparsity` exactly; False stops one event short, as the published
            code does for global pruning.
        strict_threshold: remove by "score > n-th highest", as the published code does: n - 1 stay, or fewer with ties.
        bernoulli: draw random initial masks weight by weight, as the published code does: the count fluctuates.
        score_batches: optimiser steps that SNIP and GraSP measure before training starts; they are taken back.
        mask_moments: when momentum and Adam's moments of absent weights are set to 0: at mask `update`s, where it
            decides how grown weights start, or after every `step`, as the published code does. Both train the same
            weights with any optimiser that treats each weight by itself.
    """

    sparsity: float = 0.9
    initial_sparsity: float | None = None
    init_by: InitName = "random"
    allocation: AllocationName | Literal["global"] = "erk"
    prune: PruneScope | Literal["none"] = "none"
    prune_by: ScoreName | Criterion = "magnitude"
    prune_schedule: PruneScheduleName = "cubic"
    prune_start: Moment = 0.0
    prune_end: Moment = 0.5
    drop_by: DropName | Criterion = "magnitude"
    drop_threshold: float = 0.0
    grow_by: GrowName | Criterion = "gradient"
    prune_rate: float = 0.0
    prune_rate_final: float = 0.0
    prune_rate_schedule: ScheduleName = "cosine"
    regrow_start: Moment = 0.0
    regrow_end: Moment = 1.0
    every: int = 1000
    structure: str | None = None
    ablate_below: float = 0.0
    reach_final: bool = True
    strict_threshold: bool = False
    bernoulli: bool = False
    score_batches: int = 1
    mask_moments: MaskMoments = "update"

    def __post_init__(self) -> None:
        """Check every option by itself and against the others.

        Raises:
            ValueError: naming the option, its value and what is allowed.
        """
        for name, choices in _CHOICES.items():
            if not (name in _CRITERIA and callable(getattr(self, name))):
                _check_choice(name, getattr(self, name), choices)
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity={self.sparsity} must lie in [0, 1)")
        if not 0 <= self.start_sparsity < 1:
            raise ValueError(f"initial_sparsity={self.initial_sparsity} must lie in [0, 1)")
        for name in ("prune_rate", "prune_rate_final"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1]")
        for name in ("every", "score_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.drop_threshold < 0:
            raise ValueError(f"drop_threshold={self.drop_threshold} must be at least 0")
        for name in ("prune_start", "prune_end", "regrow_start", "regrow_end"):
            parse_moment(getattr(self, name), name)
        self._check_combinations()

    @property
    def start_sparsity(self) -> float:
        """The initial sparsity as a number."""
        return self.sparsity if self.initial_sparsity is None else self.initial_sparsity

    @property
    def regenerates(self) -> bool:
        """Whether weights are dropped and grown at all."""
        return self.prune_rate > 0 or self.drop_by == "threshold"

    @property
    def grows_by_gradient(self) -> bool:
        """Whether an update reads the gradient of absent weights; a function of yours is taken to do so."""
        return self.regenerates and (self.grow_by == "gradient" or callable(self.grow_by))

    @property
    def reads_gradient(self) -> bool:
        """Whether an update reads any gradient."""
        pruning = self.prune != "none" and _by_gradient(self.prune_by)
        return pruning or self.grows_by_gradient or (self.regenerates and _by_gradient(self.drop_by))

    @property
    def reads_momentum(self) -> bool:
        """Whether an update reads the optimiser's momentum where there is one."""
        return any(callable(c) for c in (self.prune_by, self.drop_by, self.grow_by)) or self.grows_by_momentum

    @property
    def grows_by_momentum(self) -> bool:
        """Whether growth cannot do without the optimiser's momentum."""
        return self.regenerates and self.grow_by == "momentum"

    @property
    def scores_batches(self) -> bool:
        """Whether the initial masks come from the first batches."""
        return self.init_by in ("snip", "grasp") and self.start_sparsity > 0

    def _check_combinations(self) -> None:
        if self.prune == "none" and self.start_sparsity != self.sparsity:
            raise ValueError(
                f"prune='none' never gets from initial_sparsity={self.start_sparsity} to sparsity={self.sparsity}; "
                "choose prune='global' or leave initial_sparsity out"
            )
        if self.prune != "none" and self.start_sparsity > self.sparsity:
            raise ValueError(f"initial_sparsity={self.start_sparsity} must not exceed sparsity={self.sparsity}")
        if self.allocation == "global" and self.init_by == "random" and self.start_sparsity > 0:
            raise ValueError(
                "allocation='global' ranks scores, but init_by='random' has none; choose uniform, er or erk"
            )
        if self.bernoulli and self.init_by != "random":
            raise ValueError(f"bernoulli=True needs init_by='random', got {self.init_by!r}")
        if self.grows_by_momentum and self.mask_moments == "step":
            raise ValueError("grow_by='momentum' reads the momentum of absent weights; it needs mask_moments='update'")
        if self.structure is not None:
            self._check_structure(self.structure)
        if not 0 <= self.ablate_below <= 1:
            raise ValueError(f"ablate_below={self.ablate_below} must lie in [0, 1]")
        if self.ablate_below:
            self._check_ablation()

    def _check_ablation(self) -> None:
        needed = {"structure": self.structure == "fan_in", "prune": self.prune == "none"}
        needed["drop_by"] = callable(self.drop_by) or self.drop_by in get_args(ScoreName)
        needed["grow_by"] = self.grow_by != "none"
        needed["strict_threshold"] = not self.strict_threshold
        for name, right in needed.items():
            if not right:
                raise ValueError(
                    f"ablate_below={self.ablate_below} needs structure='fan_in', prune='none', a drop_by that scores weights, "
                    f"growth, and no strict_threshold; {name} is {getattr(self, name)!r}"
                )

    def _check_structure(self, structure: str) -> None:
        limit = parse_structure(structure)
        if self.bernoulli:
            raise ValueError("bernoulli=True draws unstructured masks; structure needs bernoulli=False")
        if limit is not None and 1 - self.start_sparsity > limit[0] / limit[1] + 1e-9:
            raise ValueError(
                f"structure={structure!r} holds at most {limit[0]} of {limit[1]} weights; "
                f"initial_sparsity={self.start_sparsity} asks for more. Set it to at least {1 - limit[0] / limit[1]:g}"
            )


_CHOICES: dict[str, tuple[Any, ...]] = {
    "init_by": get_args(InitName),
    "allocation": (*get_args(AllocationName), "global"),
    "prune": (*get_args(PruneScope), "none"),
    "prune_by": get_args(ScoreName),
    "prune_schedule": get_args(PruneScheduleName),
    "drop_by": get_args(DropName),
    "grow_by": get_args(GrowName),
    "prune_rate_schedule": get_args(ScheduleName),
    "mask_moments": get_args(MaskMoments),
}
_CRITERIA = ("prune_by", "drop_by", "grow_by")

_DENSE_TO_SPARSE: dict[str, Any] = {"initial_sparsity": 0.0, "prune": "global"}
_GRANET: dict[str, Any] = {"prune": "global", "prune_rate": 0.5, "prune_rate_final": 0.005}
_RIGL: dict[str, Any] = {"prune_rate": 0.3, "regrow_end": 0.75, "every": 100}

PRESETS: dict[MethodName, dict[str, Any]] = {
    "granet": {**_GRANET, "initial_sparsity": 0.0},
    "granet_s2s": {**_GRANET, "initial_sparsity": 0.5},
    "gmp": _DENSE_TO_SPARSE,
    "rigl": _RIGL,
    "rigl_itop": {"prune_rate": 0.5, "prune_rate_final": 0.005},
    "srigl": {**_RIGL, "structure": "fan_in", "ablate_below": 0.3},
    "set": {
        "allocation": "er",
        "drop_by": "sign",
        "grow_by": "random",
        "prune_rate": 0.3,
        "prune_rate_schedule": "constant",
    },
    "snip": {"init_by": "snip", "allocation": "global"},
    "grasp": {"init_by": "grasp", "allocation": "global"},
    "static_erk": {},
    "static_random": {"allocation": "uniform"},
    "dense": {"sparsity": 0.0},
}


def make_method(name: MethodName, **overrides: Any) -> Method:
    """The preset with some options replaced; an option of None keeps the preset's value.

    Raises:
        ValueError: if the preset or an option is unknown or out of range.
    """
    _check_choice("method", name, get_args(MethodName))
    known = {f.name for f in fields(Method)}
    for option in overrides:
        if option not in known:
            raise ValueError(f"unknown option {option!r}{nearest(option, known)}")
    given = {option: value for option, value in overrides.items() if value is not None}
    if name == "dense":
        given["sparsity"] = 0.0
    return Method(**{**PRESETS[name], **given})


def parse_moment(value: Moment, name: str = "moment") -> tuple[float, Literal["fraction", "steps", "epochs"]]:
    """(number, unit) of 0.5, "1000 steps" or "80 epochs".

    Raises:
        ValueError: if it is none of these.
    """
    hint = "give a fraction of training in [0, 1], '1000 steps' or '80 epochs'"
    if isinstance(value, str):
        number, _, unit = value.strip().partition(" ")
        try:
            amount = float(number)
        except ValueError:
            raise ValueError(f"{name}={value!r}: {hint}") from None
        unit = {"step": "steps", "epoch": "epochs", "": "fraction"}.get(unit.strip(), unit.strip())
        if unit not in ("fraction", "steps", "epochs") or amount < 0:
            raise ValueError(f"{name}={value!r}: {hint}")
    else:
        amount, unit = float(value), "fraction"
    if unit == "fraction" and not 0 <= amount <= 1:
        raise ValueError(f"{name}={value!r}: {hint}")
    return amount, cast(Literal["fraction", "steps", "epochs"], unit)


def _by_gradient(criterion: str | Criterion) -> bool:
    return criterion == "taylor" or callable(criterion)


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        own = ", or a function of a Layer" if name in _CRITERIA else ""
        raise ValueError(
            f"{name} must be one of {', '.join(choices)}{own}, got {value!r}{nearest(str(value), choices)}"
        )
