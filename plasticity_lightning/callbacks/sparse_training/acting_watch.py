"""Watches single training batches for the weights that act: for FLOPs, and for sparsity that a layer's forward undoes.

The first batch of a fit is watched. If a weight that acted there was computed from a masked one, batches that log are
watched too, since only they can tell how sparse it is. Code compiled by `torch.compile` runs eagerly meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor

from plasticity_lightning.runtime.overlap import EagerExecution, hold, release
from plasticity_lightning.sparsity.acting import ActingWeights
from plasticity_lightning.sparsity.sparse_parameters import SparseParameters

__all__ = ["ActingWatch"]

_TOLERANCE = 0.01  # of sparsity; a computed weight may have a few zeros by chance, or round small ones to 0


class ActingWatch:
    """Holds `ActingWeights` open from the start of a batch to its end.

    Attributes:
        seen: names of the parameters that acted in the watched batches, themselves or through another tensor.
        computed: name -> share of zeros of the tensor that last acted in its place.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._masked: dict[str, float] = {}
        self._acting: ActingWeights | None = None
        self._eager: EagerExecution | None = None
        self.begin()

    def begin(self) -> None:
        """A new fit: its first batch is to be watched."""
        self.stop()
        self.seen: set[str] = set()
        self.computed: dict[str, Tensor] = {}
        self.first = True

    def start(self, pl_module: pl.LightningModule, groups: Sequence[SparseParameters], logging: bool) -> None:
        """Watch the batch that begins, if it is the first or one that logs what only watching tells."""
        if self._acting is None and (self.first or (logging and self.computed)):
            self._masked = {
                n: 1 - group.living[n] / mask.numel() for group in groups for n, mask in group.masks.items()
            }
            self._eager, self._acting = EagerExecution(), ActingWeights(pl_module)
            hold(self._eager)
            hold(self._acting)

    def positions(self, batch: Any) -> dict[str, float] | None:
        """Uses so far of each weight by a sample of the batch; None if it is not watched."""
        if self._acting is None:
            return None
        try:
            size = extract_batch_size(batch)
        except Exception:  # Lightning finds no tensor in it: any size serves for shares
            size = 1
        return self._acting.positions(size)

    def stop(self) -> bool:
        """Take over what the batch has shown, and watch no more; may be called at any time. False if none was watched."""
        if self._acting is None or self._eager is None:
            return False
        release(self._acting)
        release(self._eager)
        self.seen |= self._acting.uses().keys()
        self.computed |= self._acting.computed
        self._acting = self._eager = None
        self.first = False
        return True

    def state_dict(self) -> dict[str, Any]:
        """What the batches so far have shown."""
        return {"first": self.first, "seen": sorted(self.seen), "computed": dict(self.computed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it, after `begin`: compiled code must not run eagerly in a batch in which it would not have."""
        self.first, self.seen, self.computed = state["first"], set(state["seen"]), dict(state["computed"])

    def effective_zeros(self, group: SparseParameters) -> float:
        """Number of zeros among the weights that act in the place of the masked ones; computed ones as last seen."""
        return sum(
            float(self.computed[name]) * mask.numel() if name in self.computed else mask.numel() - group.living[name]
            for name, mask in group.masks.items()
        )

    def warn_if_undone(self) -> None:
        """Name, once, the weights whose zeros something else has acted for in the batch that was watched."""
        undone = []
        for name in self.computed.keys() & self._masked.keys() - self._told:
            masked, zeros = self._masked[name], float(self.computed[name])
            if masked - zeros > _TOLERANCE:
                undone.append(f"{name} ({masked:.1%} masked, {zeros:.1%} of what acts is 0)")
                self._told.add(name)
        if undone:
            rank_zero_warn(
                f"the weights that act are not as sparse as the masks: {', '.join(sorted(undone))}. The layers compute "
                "them from the masked parameters (by standardising, for example), which undoes zeros; "
                "`sparsity/effective` counts what acts. Exclude these layers"
            )
