"""The masked parameters of one optimiser: applies masks after its steps and updates them when the plan says so.

The object holds what must survive from step to step (masks, step counter, random state, what has ever lived) and asks
pure functions for every decision. It knows parameters and optimiser, not the module they belong to, so it works under
any training loop: call `before_step` when gradients are final, `after_step` when the optimiser has stepped.

Sources: Liu et al. 2021 (GraNet), Evci et al. 2020 (RigL), Lee et al. 2019 (SNIP).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity_lightning.sparsity.criteria import grasp, snip
from plasticity_lightning.sparsity.flops import FlopsLedger
from plasticity_lightning.sparsity.initial import initial_masks
from plasticity_lightning.sparsity.layer import Layer
from plasticity_lightning.sparsity.masks import count, pack, unpack
from plasticity_lightning.sparsity.plan import Plan
from plasticity_lightning.sparsity.silence import as_bits, silence, silence_moments
from plasticity_lightning.sparsity.update import MaskUpdate, update_masks

__all__ = ["SparseParameters"]

_MOMENTUM = ("momentum_buffer", "exp_avg")


class SparseParameters:
    """Masks, and when they change, for the parameters of one optimiser.

    Args:
        optimizer: it updates all of `parameters`.
        parameters: to mask, by name.
        plan: what is done, and when.
        seed: of random masks and random growth.
        floors: lowest density by name under layer-wise allocation.
        synchronise: makes a uint8 tensor equal on all ranks, in place; called after every decision on masks.
        flops: counts the training's FLOPs; None counts the masked weights as used once per sample.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        parameters: Mapping[str, nn.Parameter],
        plan: Plan,
        seed: int = 0,
        floors: Mapping[str, float] | None = None,
        synchronise: Callable[[Tensor], None] | None = None,
        flops: FlopsLedger | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.parameters = dict(parameters)
        self.plan = plan
        self.floors = dict(floors or {})
        self.synchronise = synchronise
        self.flops = flops or FlopsLedger({name: p.numel() for name, p in self.parameters.items()})
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.n_updates = 0
        self.scoring_left = plan.method.score_batches if plan.method.scores_batches else 0
        self.scores: dict[str, Tensor] = {}
        self.masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in self.parameters.items()}
        self.ever_active = {name: torch.zeros_like(mask) for name, mask in self.masks.items()}
        self.living: dict[str, int] = {}
        self.budgets: dict[str, int] = {}
        self._gradients: dict[str, Tensor] | None = None
        self._undo: list[tuple[Tensor, Tensor]] = []
        self._targets: list[Tensor] = list(self.parameters.values())
        self._bits: list[Tensor] = []

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw the initial masks (all ones while batches are still to be scored) and apply them."""
        if not self.scoring_left:
            method = self.plan.method
            scores: dict[str, Tensor] | None = None
            if method.scores_batches:
                score = snip if method.init_by == "snip" else grasp
                # a weight that no batch has used has no influence on the loss
                scores = {
                    name: score(p, self.scores.get(name, torch.zeros_like(p))) for name, p in self.parameters.items()
                }
            self.masks = initial_masks(method, self.parameters, scores, self.floors, self.generator)
            self.scores = {}
            self._synchronise([self.masks])
        self._adopt()
        self.budgets = dict(self.living)
        self.apply()

    def apply(self) -> None:
        """Set absent weights (and their moments, if asked for) to 0, in place, also where they are NaN."""
        silence(self._targets, self._bits)
        if self.plan.method.mask_moments == "step":
            self._mask_moments(self.masks)

    def before_step(self, overwrite: bool = True) -> None:
        """Copy the dense gradient if the coming step needs it: clipping and some optimisers change it in place.

        Args:
            overwrite: False keeps a copy that was taken earlier for this step.
        """
        if self.scoring_left:
            if overwrite or not self._undo:
                self._begin_scoring()  # again if a gradient scaler has skipped the step
            return
        if not self.plan.due(self.step + 1) or (self._gradients is not None and not overwrite):
            return
        if self.plan.method.reads_gradient:
            self._gradients = _dense_gradients(self.parameters)

    def after_step(self) -> MaskUpdate | None:
        """Apply the masks, count the step, and update the masks if it is due.

        Returns:
            The update, or None if there was none.
        """
        if self.scoring_left:
            self._end_scoring()
            return None
        self.apply()
        self.step += 1
        due = self.plan.due(self.step)
        self.flops.add_step(self.living, due and self.plan.method.grows_by_gradient)
        if not due:
            return None
        if self._gradients is None and self.plan.method.reads_gradient:
            self._gradients = _dense_gradients(self.parameters)
        update = self._update()
        self._gradients = None
        return update

    def add_scores(self, tensors: Mapping[str, Tensor]) -> None:
        """Add one batch's gradient (SNIP) or Hessian-gradient product (GraSP)."""
        for name, tensor in tensors.items():
            self.scores[name] = self.scores[name] + tensor if name in self.scores else tensor.detach().clone()

    def checksum(self) -> Tensor:
        """An int64 number that differs (almost surely) when masks differ; computed from the bits in use."""
        total = torch.zeros((), dtype=torch.int64, device=self._targets[0].device)
        for bits in self._bits:
            packed = pack(bits != 0).long()
            position = torch.arange(1, packed.numel() + 1, device=packed.device)
            total = total * 1_000_003 + (packed * (position * 2_654_435_761 % 1_000_000_007)).sum()
        return total

    def state_dict(self) -> dict[str, Any]:
        """Masks (bit-packed), counters, random state and unfinished scores; loads with `weights_only=True`."""
        return {
            "step": self.step,
            "n_updates": self.n_updates,
            "scoring_left": self.scoring_left,
            "shapes": {name: list(mask.shape) for name, mask in self.masks.items()},
            "masks": {name: pack(mask).cpu() for name, mask in self.masks.items()},
            "ever_active": {name: pack(mask).cpu() for name, mask in self.ever_active.items()},
            "budgets": dict(self.budgets),
            "scores": {name: tensor.cpu() for name, tensor in self.scores.items()},
            "generator": self.generator.get_state(),
            "flops": self.flops.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            ValueError: if the state belongs to other parameters.
        """
        expected = {name: list(p.shape) for name, p in self.parameters.items()}
        if state["shapes"] != expected:
            differing = sorted(set(state["shapes"]) ^ set(expected))
            raise ValueError(
                f"the saved masks are of other parameters: {differing or 'same names, other shapes'}; "
                "resume with the module and the include, exclude and types of the saved run"
            )
        for name, parameter in self.parameters.items():
            shape = parameter.shape
            self.masks[name] = unpack(state["masks"][name].to(parameter.device), shape)
            self.ever_active[name] = unpack(state["ever_active"][name].to(parameter.device), shape)
            if name in state["scores"]:
                self.scores[name] = state["scores"][name].to(parameter.device)
        self.step, self.n_updates = state["step"], state["n_updates"]
        self.scoring_left = state["scoring_left"]
        self.generator.set_state(state["generator"].cpu())
        self.flops.load_state_dict(state["flops"])
        self._adopt()
        self.budgets = dict(state.get("budgets", self.living))  # older checkpoints have none; nothing was ablated there

    @torch.no_grad()
    def _update(self) -> MaskUpdate | None:
        """Decide, agree with the other ranks, apply. Parameters frozen by now (no gradient wanted) are left alone."""
        method, gradients = self.plan.method, self._gradients or {}
        taking_part = {name: p for name, p in self.parameters.items() if p.requires_grad or p.grad is not None}
        if not taking_part:
            return None
        layers = {}
        for name, p in taking_part.items():
            gradient = gradients.get(name, torch.zeros_like(p)) if method.reads_gradient else None
            momentum = self._momentum(name) if method.reads_momentum else None
            layers[name] = Layer(p.detach(), self.masks[name], gradient, momentum, self.generator)
        known = (
            gradients if method.grows_by_gradient else {n for n, layer in layers.items() if layer.momentum is not None}
        )
        update = update_masks(
            layers,
            method,
            density=self.plan.density(self.step),
            rate=self.plan.rate(self.step),
            floors={name: floor for name, floor in self.floors.items() if name in taking_part},
            unused=taking_part.keys() - known,
            budgets=self.budgets,
        )
        self._synchronise([update.masks, update.kept])
        touched = [self.parameters[name] for name in update.kept]
        silence(touched, [as_bits(kept, p) for kept, p in zip(update.kept.values(), touched, strict=True)])
        self._mask_moments(update.kept)
        self.masks |= update.masks
        self.n_updates += 1
        self._adopt()
        return update

    def _adopt(self) -> None:
        """What follows from new masks."""
        self._bits = [as_bits(self.masks[name], p) for name, p in self.parameters.items()]
        self.living = {name: count(mask) for name, mask in self.masks.items()}
        if not self.scoring_left:
            for name, mask in self.masks.items():
                self.ever_active[name] |= mask

    def _mask_moments(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            silence_moments(self.optimizer, self.parameters[name], mask)

    def _momentum(self, name: str) -> Tensor | None:
        parameter = self.parameters[name]
        state = self.optimizer.state.get(parameter, {})
        for key in _MOMENTUM:
            if isinstance(state.get(key), Tensor):
                return cast(Tensor, state[key])
        if (parameter.grad is None and not state) or not self.plan.method.grows_by_momentum:
            return None
        raise ValueError(
            f"grow_by='momentum' needs an optimiser with a running mean of the gradient ({' or '.join(_MOMENTUM)}); "
            f"{type(self.optimizer).__name__} holds {sorted(map(str, state))}"
        )

    def _synchronise(self, groups: list[dict[str, Tensor]]) -> None:
        if self.synchronise is None:
            return
        masks = [(group, name) for group in groups for name in group]
        packed = [pack(group[name]) for group, name in masks]
        joined = torch.cat(packed)
        self.synchronise(joined)
        for (group, name), bits in zip(masks, joined.split([len(part) for part in packed]), strict=True):
            group[name] = unpack(bits, group[name].shape)

    @torch.no_grad()
    def _begin_scoring(self) -> None:
        self._gradients = _dense_gradients(self.parameters)
        everything = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._undo = [(p, p.detach().clone()) for p in everything]

    @torch.no_grad()
    def _end_scoring(self) -> None:
        for parameter, before in self._undo:
            parameter.copy_(before)
            self.optimizer.state.pop(parameter, None)
        if self.plan.method.init_by == "snip" and self._gradients is not None:
            self.add_scores(self._gradients)
        self._undo, self._gradients = [], None
        self.scoring_left -= 1
        if not self.scoring_left:
            self.initialise()


def _dense_gradients(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.grad.detach().clone() for name, p in parameters.items() if p.grad is not None}
