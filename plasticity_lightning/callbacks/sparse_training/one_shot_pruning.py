"""Prunes a network once by magnitude when training starts or goes on, then keeps the masks.

With regeneration it grows, at the first optimizer step, as many connections in each layer as it has pruned there, where
the dense gradient of the pruned network is largest: the intervention whose effect is called pruning plasticity. Works
on any LightningModule; the parameters keep their names.

Source: Liu et al. 2021, "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration", and the options
`prune_uniform`, `prune_global`, `prune_and_grow_uniform` and `prune_and_grow_global` of its published code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity_lightning.callbacks.sparse_training.mask_keeper import MaskKeeper
from plasticity_lightning.protocols import CoverageRow
from plasticity_lightning.runtime.coverage import announce_coverage
from plasticity_lightning.runtime.weight_gate import changing_weights
from plasticity_lightning.sparsity.allocation import global_masks
from plasticity_lightning.sparsity.criteria import drop
from plasticity_lightning.sparsity.growth import grow
from plasticity_lightning.sparsity.layer import Layer
from plasticity_lightning.sparsity.masks import count, density, pack, unpack
from plasticity_lightning.sparsity.methods import Method
from plasticity_lightning.sparsity.selection import Selection, select_parameters, survey
from plasticity_lightning.sparsity.silence import as_bits, silence, silence_moments

__all__ = ["OneShotPruning", "PruneShare", "one_shot_masks"]

PruneShare = Literal["uniform", "global"]


def one_shot_masks(weights: dict[str, Tensor], rate: float, share: PruneShare) -> dict[str, Tensor]:
    """Masks that keep the largest of the weights that are not 0.

    Args:
        weights: by name, [out, in, ...]; zeros count as pruned before.
        rate: share of the others to prune, in [0, 1]; ceil(rate * others) go.
        share: `"uniform"` prunes that share of each layer, `"global"` of all layers together.

    Returns:
        Bool masks by name.
    """
    living = {name: weight.detach() != 0 for name, weight in weights.items()}
    if share == "uniform":
        method = Method(drop_by="magnitude")
        return {name: drop(Layer(w.detach(), living[name]), rate, method) for name, w in weights.items()}
    total = sum(count(mask) for mask in living.values())
    keep = total - math.ceil(rate * total - 1e-9 * total)  # 0.9 of 10 is 9, whatever its last bit says
    return global_masks({name: weight.detach().abs() for name, weight in weights.items()}, keep, living)


class OneShotPruning(MaskKeeper):
    """One-shot magnitude pruning at the start of `fit` (also a resumed one), with or without regeneration.

    Weights that are 0 then are taken for pruned already, so that a sparse checkpoint stays sparse; `rate=0` only keeps
    those. Used with `validate` or `test`, it prunes before the evaluation. Moments of the optimizer are pruned with
    the weights; grown weights start at 0. On a dense checkpoint regeneration brings back every pruned connection, at
    weight 0; a choice by gradient exists only where there were zeros before.

    Args:
        rate: share of the living weights to prune, in [0, 1).
        share: `"uniform"`: that share of each layer, `"global"`: of all layers together.
        regenerate: grow as many in each layer, by the gradient of the first optimizer step.
        include: patterns of parameter names; None takes the weights of all known kinds of layers, see
            `sparsity.selection.Selection`.
        exclude: patterns of names to leave dense.
        name: distinguishes several of these callbacks in one checkpoint.

    Raises:
        ValueError: if `rate` or `share` is not allowed.
        MisconfigurationException: at the start, if nothing can be pruned.
    """

    def __init__(
        self,
        rate: float,
        share: PruneShare = "global",
        regenerate: bool = False,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate must lie in [0, 1), got {rate}")
        if share not in get_args(PruneShare):
            raise ValueError(f"share must be one of {', '.join(get_args(PruneShare))}, got {share!r}")
        self.rate, self.share, self.regenerate = rate, share, regenerate
        self.selection, self.name = Selection(include, exclude), name
        self._masks: dict[str, Tensor] = {}
        self._bits: list[Tensor] = []
        self._to_grow: dict[str, int] = {}
        self._parameters: dict[str, nn.Parameter] = {}
        self._loaded: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        """One state per name."""
        return self._generate_state_key(name=self.name)

    @property
    def masks(self) -> dict[str, Tensor]:
        """Bool masks by parameter name; empty before anything is pruned."""
        return self._masks

    @property
    def sparsity(self) -> float:
        """Share of zeros among the masked weights, in [0, 1]; NaN before anything is pruned."""
        return 1 - density(self._masks.values())

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prune, or take the masks of the checkpoint up again; keep them from now on."""
        self.let_go()
        self._find(pl_module)
        with changing_weights(pl_module, self._parameters.values()):
            if self._loaded is None:
                self._prune(trainer.optimizers)
            else:
                self._restore(self._loaded)
        for optimizer in trainer.optimizers:
            self._handles.append(optimizer.register_step_post_hook(self._after_step))
        self.keep(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Grow where the first gradient is largest; gradients are complete and not yet clipped here."""
        if not self._to_grow:
            return
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name in [n for n in self._to_grow if id(self._parameters[n]) in owned]:
            gradient = self._parameters[name].grad
            if gradient is not None:
                self._masks[name] = grow(self._masks[name], self._to_grow.pop(name), gradient.detach().abs())
                self._adopt()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prune before `Trainer.validate` and `Trainer.test`; inside `fit` training has its own start."""
        if not trainer.fit_loop.restarting and trainer.state.fn != "fit" and not self._masks:
            self._find(pl_module)
            self._prune([])

    on_test_start = on_validation_start

    def state_dict(self) -> dict[str, Any]:
        """Masks, eight entries a byte, and how many connections still wait for the first gradient."""
        if not self._masks:
            return self._loaded or {}
        return {"masks": {name: pack(mask) for name, mask in self._masks.items()}, "to_grow": dict(self._to_grow)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the parameters are known."""
        self._loaded = state_dict or None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have the coverage told."""
        if stage == "fit":
            announce_coverage(trainer)

    def coverage(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[CoverageRow]:
        """The fate of every matrix, see `protocols.HasCoverage`."""
        callback = type(self).__name__ + (f" {self.name}" if self.name else "")
        fates = survey(pl_module, self.selection)
        return [CoverageRow(callback, n, "masked" if f.masked else "left out", f.reason) for n, f in fates.items()]

    def apply(self) -> None:
        """Set the pruned weights to 0."""
        silence(list(self._parameters.values()), self._bits)

    def _find(self, pl_module: pl.LightningModule) -> None:
        try:
            self._parameters = select_parameters(pl_module, self.selection)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error

    def _prune(self, optimizers: Sequence[Optimizer]) -> None:
        before = {name: count(parameter.detach() != 0) for name, parameter in self._parameters.items()}
        self._masks = one_shot_masks(dict(self._parameters), self.rate, self.share)
        if self.regenerate:
            pruned = {name: before[name] - count(mask) for name, mask in self._masks.items()}
            self._to_grow = {name: n for name, n in pruned.items() if n}
        self._adopt()
        for optimizer in optimizers:
            for name, parameter in self._parameters.items():
                silence_moments(optimizer, parameter, self._masks[name])

    def _restore(self, state: dict[str, Any]) -> None:
        if state["masks"].keys() != self._parameters.keys():
            raise MisconfigurationException(
                f"the checkpoint holds masks of {sorted(state['masks'])[:5]} ..., this module has "
                f"{sorted(self._parameters)[:5]} ...; resume with the same include and exclude"
            )
        for name, parameter in self._parameters.items():
            self._masks[name] = unpack(state["masks"][name].to(parameter.device), parameter.shape)
        self._to_grow, self._loaded = dict(state["to_grow"]), None
        self._adopt()

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.apply()

    def _adopt(self) -> None:
        """What follows from new masks."""
        self._bits = [as_bits(self._masks[name], parameter) for name, parameter in self._parameters.items()]
        self.apply()
