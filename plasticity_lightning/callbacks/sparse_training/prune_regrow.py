"""Sparse training of any LightningModule: prunes, drops and regrows weights while it trains.

One Callback for GraNet, GMP, SET, RigL, RigL-ITOP, SRigL, SNIP, GraSP, static and dense training; a method is a preset of
options (`sparsity.methods`). Masks are applied in place after every optimiser step by a hook of the optimiser, so the
module keeps its parameters, its forward pass and its state_dict keys. Source: Liu et al. 2021 (GraNet), and the
sources in `sparsity.methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import Optimizer

from plasticity_lightning.callbacks.sparse_training.acting_watch import ActingWatch
from plasticity_lightning.callbacks.sparse_training.groups import sparse_groups, training_length, warn_if_uncounted
from plasticity_lightning.callbacks.sparse_training.mask_keeper import MaskKeeper
from plasticity_lightning.callbacks.sparse_training.report import Report
from plasticity_lightning.callbacks.sparse_training.scoring import hessian_gradients
from plasticity_lightning.callbacks.sparse_training.sync import assert_equal_on_all_ranks, mask_averages
from plasticity_lightning.protocols import CoverageRow
from plasticity_lightning.runtime.coverage import announce_coverage
from plasticity_lightning.runtime.exact_loops import left
from plasticity_lightning.runtime.lightning_classes import keeps_parameters_whole
from plasticity_lightning.runtime.loss_gradient import read_loss_gradient
from plasticity_lightning.runtime.weight_gate import changing_weights
from plasticity_lightning.schedules import ScheduleName
from plasticity_lightning.sparsity.allocation import AllocationName
from plasticity_lightning.sparsity.layer import Criterion
from plasticity_lightning.sparsity.methods import (
    DropName,
    GrowName,
    InitName,
    MaskMoments,
    Method,
    MethodName,
    Moment,
    PruneScheduleName,
    PruneScope,
    ScoreName,
    make_method,
)
from plasticity_lightning.sparsity.plan import Plan, resolve
from plasticity_lightning.sparsity.selection import LAYER_KINDS, Fate, LayerPolicy, Selection, select_parameters, survey
from plasticity_lightning.sparsity.sparse_parameters import SparseParameters

__all__ = ["PruneRegrowScheduler"]


class PruneRegrowScheduler(MaskKeeper):
    """Masks weights and moves the masks while training; the method is a preset whose options can each be overridden.

    Each optimiser has its own masks, its own step counter and its own budget: "global" means over the masked weights of
    one optimiser. Only parameters that an optimiser updates are masked, so target networks are left alone.

    Args:
        method: preset: granet, granet_s2s, gmp, rigl, rigl_itop, srigl, set, snip, grasp, static_erk, static_random or dense.
        sparsity: share of zeros among the masked weights at the end, in [0, 1).
        initial_sparsity: at the start; None takes the preset's.
        every: optimiser steps between updates of the masks, at least 1.
        init_by: initial masks by random, magnitude, nonzero (keep the zeros that are there), snip or grasp.
        allocation: layers' shares of the initial masks: uniform, er, erk or global.
        prune: layers' shares in gradual pruning: global, uniform, er, erk or none.
        prune_by: criterion of gradual pruning: magnitude, taylor, random, or a function of yours.
        prune_schedule: of the sparsity: cubic, linear or cosine.
        prune_start: a fraction of training (0.1) or "1000 steps" or "5 epochs".
        prune_end: likewise.
        drop_by: what regeneration removes: magnitude, taylor, random, sign, threshold, or a function of yours.
        drop_threshold: of the criterion threshold.
        grow_by: what it grows: gradient, momentum, random, none, or a function of yours. A function takes a
            `sparsity.Layer` and returns a score of its weight's shape: the highest stay, or grow. In YAML it is an import
            path. Growth by gradient or momentum leaves layers alone that no batch has used, and names them once.
        prune_rate: share of each layer's weights that it replaces, at the start.
        prune_rate_final: at the end.
        prune_rate_schedule: cosine, linear, cubic or constant.
        regrow_start: as `prune_start`.
        regrow_end: likewise.
        structure: "n:m" (at most n of m consecutive inputs) or "fan_in" (equal for all outputs of a layer).
        ablate_below: with "fan_in": share of a layer's fan-in that must be salient in a neuron, which else loses its weights
            to the others (SRigL's gamma); 0 ablates none, and none of the last masked layer ever are.
        include: glob patterns of parameter names; None masks the weights of all `types`. A pattern that matches none of
            these takes any matrices that it matches (raw parameters, stacks of experts). A parameter's whole name also
            selects one without autograd, which a local rule trains.
        exclude: glob patterns of parameter names that stay dense.
        types: class names of layers whose weights are masked: all kinds in `sparsity.selection.LAYER_KINDS`.
        first_layer: sparse or dense.
        last_layer: sparse or dense.
        min_density: by glob pattern, lowest density of single layers; not with global pruning or allocation.
        score_batches: optimiser steps that snip and grasp measure; they are taken back (they count in
            `trainer.global_step`).
        mask_moments: clear the moments of absent weights at each mask `update` or after every `step`.
        reach_final: False stops global pruning one event short of `sparsity`, as the published code does.
        strict_threshold: remove ties together and one weight more, as the published code does.
        bernoulli: draw random initial masks weight by weight, as the published code does.
        total_steps: optimiser steps of the training; None asks the Trainer. Needed where it cannot know, e.g. several
            optimiser steps per batch in manual optimisation.
        seed: of random masks and random growth.
        log_layers: log each layer's sparsity and an image of its mask at updates, in TensorBoard.
        summary: print a table of the layers at the end.
        name: tells several schedulers of one Trainer apart.

    Logs:
        `sparsity/global` (of the masks), `sparsity/effective` (of the weights that act in the forward pass, which a layer may
        compute from the masked ones; as last seen), `sparsity/exploration_rate`, `sparsity/prune_rate`, `sparsity/inference_flops`,
        `sparsity/training_flops` (both relative to dense); in TensorBoard at updates also `sparsity_layer/<name>`,
        `sparsity_update/{pruned,dropped,grown,ablated,revived,overlap}` and images `mask/<name>`.

    Raises:
        ValueError: if an option is unknown or out of range.
        MisconfigurationException: at setup or start, for a strategy that shards parameters, if nothing can be masked or
            the length of training is needed and unknown.
    """

    def __init__(
        self,
        method: MethodName = "granet",
        sparsity: float = 0.9,
        initial_sparsity: float | None = None,
        every: int | None = None,
        init_by: InitName | None = None,
        allocation: AllocationName | Literal["global"] | None = None,
        prune: PruneScope | Literal["none"] | None = None,
        prune_by: ScoreName | Criterion | None = None,
        prune_schedule: PruneScheduleName | None = None,
        prune_start: Moment | None = None,
        prune_end: Moment | None = None,
        drop_by: DropName | Criterion | None = None,
        drop_threshold: float | None = None,
        grow_by: GrowName | Criterion | None = None,
        prune_rate: float | None = None,
        prune_rate_final: float | None = None,
        prune_rate_schedule: ScheduleName | None = None,
        regrow_start: Moment | None = None,
        regrow_end: Moment | None = None,
        structure: str | None = None,
        ablate_below: float | None = None,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        types: Sequence[str] = tuple(LAYER_KINDS),
        first_layer: LayerPolicy = "sparse",
        last_layer: LayerPolicy = "sparse",
        min_density: dict[str, float] | None = None,
        score_batches: int = 1,
        mask_moments: MaskMoments = "update",
        reach_final: bool = True,
        strict_threshold: bool = False,
        bernoulli: bool = False,
        total_steps: int | None = None,
        seed: int = 0,
        log_layers: bool = True,
        summary: bool = True,
        name: str | None = None,
    ) -> None:
        given = locals()  # the options of `Method` have the names that they have here
        super().__init__()
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps={total_steps} must be at least 1")
        self.method = make_method(method, **{option.name: given[option.name] for option in fields(Method)})
        if min_density and "global" in (self.method.prune, self.method.allocation):
            raise ValueError(
                f"min_density={min_density} needs layer-wise counts: set prune and allocation to uniform, er or erk"
            )
        self.selection = Selection(include, exclude, types, first_layer, last_layer, self.method.structure)
        self.min_density = dict(min_density or {})
        self.total_steps, self.seed, self.name = total_steps, seed, name
        self.groups: list[SparseParameters] = []
        self.report = Report(log_layers, summary)
        self._watch = ActingWatch()
        self._batch: Any = None
        self._fates: dict[str, Fate] = {}
        self._loaded: dict[str, Any] | None = None
        self._has_read: set[int] = set()  # groups whose gradient of this step has been kept
        self._watched: dict[str, Any] | None = None
        self._resumed = False

    @property
    def state_key(self) -> str:
        """One key per name, so that several schedulers can serve one Trainer."""
        return self._generate_state_key(name=self.name)

    @property
    def masks(self) -> dict[str, Tensor]:
        """Bool masks by parameter name; empty before training starts."""
        return {name: mask for group in self.groups for name, mask in group.masks.items()}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work, before anything runs."""
        if stage != "fit":
            return
        if not keeps_parameters_whole(trainer):
            raise MisconfigurationException(
                f"PruneRegrowScheduler needs whole parameters on every rank; {type(trainer.strategy).__name__} is not "
                "known to keep them whole (FSDP, DeepSpeed and tensor parallelism shard them). Use one device or ddp"
            )
        if self.method.init_by == "grasp" and self.method.scores_batches and not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "init_by='grasp' differentiates the loss that training_step returns; manual optimisation returns none. "
                "Use init_by='snip'"
            )
        announce_coverage(trainer)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find each optimiser's weights, make or restore their masks, register the hooks."""
        self.let_go()
        try:
            selected = select_parameters(pl_module, self.selection)
            self._fates = survey(pl_module, self.selection)
            self.groups = sparse_groups(
                trainer,
                pl_module,
                selected,
                plan=Plan(self.method),  # its phases are known when training starts
                required=self.selection.include or (),
                min_density=self.min_density,
                seed=self.seed,
            )
            self._start()
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        for group in self.groups:
            self._handles += [
                group.optimizer.register_step_pre_hook(self._before(group)),
                group.optimizer.register_step_post_hook(self._after(group, trainer, pl_module)),
            ]
        self._handles.append(read_loss_gradient(pl_module, self._read))
        self.keep(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fix the phases, now that the length of training is known."""
        try:
            plan = resolve(self.method, *training_length(trainer, self.total_steps))
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        for group in self.groups:
            group.plan = plan
        mask_averages(trainer, self.masks)
        self.report.start(self.groups, self._resumed)
        self._watch.begin()
        if self._watched is not None:
            self._watch.load_state_dict(self._watched)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Masks hold; GraSP: the Hessian-gradient product of this batch, while batches are scored. Watch some batches."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        for group in self.groups:
            if group.scoring_left and self.method.init_by == "grasp":
                group.add_scores(hessian_gradients(trainer, pl_module, batch, batch_idx, group.parameters))
        self._batch = batch
        self._watch.start(pl_module, self.groups, logging=self.report.due(trainer))

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """There are new gradients to be read."""
        self._has_read.clear()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Keep the gradient, unscaled, accumulated and not yet clipped, if the coming step changes the masks."""
        self._read(optimizer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log at the Trainer's cadence and after updates."""
        for group in self.groups:
            self._observe(group)  # those whose optimiser has made no step
        first, self._batch = self._watch.first, None
        if self._watch.stop():
            self._watch.warn_if_undone()
            if first:
                warn_if_uncounted(self.groups)
        self.report.log(trainer, pl_module, self.groups, self._watch.effective_zeros)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the table."""
        if trainer.is_global_zero and not left(trainer):
            self.report.table(self.groups, {name: fate.kind for name, fate in self._fates.items()})

    def state_dict(self) -> dict[str, Any]:
        """Masks, counters, random states and FLOPs of every optimiser's group, and what was seen of the weights that act."""
        if not self.groups:
            return self._loaded or {}
        return {"groups": [group.state_dict() for group in self.groups], "watch": self._watch.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the optimisers exist."""
        self._loaded = state_dict or None

    def apply(self) -> None:
        """Set the absent weights of all groups to 0."""
        for group in self.groups:
            group.apply()

    def let_go(self) -> None:
        """Remove all hooks."""
        self._watch.stop()
        self._batch = None
        super().let_go()

    def coverage(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[CoverageRow]:
        """The fate of every matrix, see `protocols.HasCoverage`."""
        callback = type(self).__name__ + (f" {self.name}" if self.name else "")
        rows = []
        for name, fate in self._fates.items():
            if name in self.masks:
                unseen = "" if name in self._watch.seen else "not seen at work in the first batch"
                rows.append(CoverageRow(callback, name, "masked", fate.reason or unseen))
            else:
                rows.append(CoverageRow(callback, name, "left out", fate.reason or "no optimiser updates it"))
        return rows

    def _observe(self, group: SparseParameters) -> None:
        """Count how often the weights were used before the first step of their optimiser."""
        positions = None if group.flops.observed else self._watch.positions(self._batch)
        if positions is not None:
            group.flops.observe(positions)

    def _start(self) -> None:
        loaded, self._loaded = self._loaded, None
        self._resumed, self._watched = loaded is not None, None if loaded is None else loaded["watch"]
        if loaded is None:
            for group in self.groups:
                group.initialise()
            return
        if len(loaded["groups"]) != len(self.groups):
            raise ValueError(
                f"the checkpoint holds masks for {len(loaded['groups'])} optimisers, this run has {len(self.groups)}"
            )
        for group, state in zip(self.groups, loaded["groups"], strict=True):
            group.load_state_dict(state)

    def _read(self, optimizer: Optimizer) -> None:
        """Before the first callback adds to the gradients, or when it is this one's turn."""
        for group in self.groups:
            # LightningOptimizer wraps it
            if group.optimizer is getattr(optimizer, "optimizer", optimizer) and id(group) not in self._has_read:
                self._has_read.add(id(group))
                group.before_step()

    def _before(self, group: SparseParameters) -> Callable[..., None]:
        def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            # with a closure the gradient is computed inside the step; Lightning then calls on_before_optimizer_step
            if not args and kwargs.get("closure") is None:
                group.before_step(overwrite=False)

        return hook

    def _after(
        self, group: SparseParameters, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> Callable[..., None]:
        def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            self._has_read.discard(id(group))
            self._observe(group)
            if not group.scoring_left and not group.plan.due(group.step + 1):
                group.after_step()
                return
            scored = group.scoring_left == 1
            with changing_weights(pl_module, group.parameters.values()):
                update = group.after_step()
            if update is None and not scored:
                return
            assert_equal_on_all_ranks(group, trainer)
            mask_averages(trainer, self.masks)
            if update is not None:
                self.report.note(update)

        return hook
