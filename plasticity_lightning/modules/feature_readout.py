"""Classification on features that are made once: collect them for every item, keep them, fit a linear readout, select it by validation.

The part that NALSM and its controls share, so that they differ in their features alone. Two phases of one `fit`: *features* makes and keeps one row
per item, *readout* runs a solver of `plasticity_lightning.readouts` to its end; then the phase is *done* and training stops. A subclass makes the
features, and may put phases of its own before them.

Source: the protocol of Ivanov & Michmizos 2021 (cached spike counts, readout selected on validation accuracy, one test).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from plasticity_lightning.readouts import READOUTS
from plasticity_lightning.readouts.features import batch_max_scale, feature_scale, normalise_counts, silent_items
from plasticity_lightning.runtime.exact_loops import inside_epoch
from plasticity_lightning.runtime.feature_store import FeatureStore
from plasticity_lightning.spiking.liquid.item_batches import select_items

__all__ = ["FeatureReadout"]

_OWN_PHASES = ("features", "readout", "done")


class FeatureReadout(pl.LightningModule, ABC):
    """Base of modules that make each item's features once and then fit a linear readout to them.

    Batches are dicts with `label` and `index` int64 [B] and what `make_features` needs. A feature is at least 0; the readout sees its share of the
    item's total, divided by the largest share in the training set.

    Args:
        n_classes: number of classes, at least 2.
        n_features: values per item.
        readout: name of a solver in `READOUTS`.
        readout_arguments: passed on to the solver.
        feature_scaling: "batch" divides features by the maximum of each batch of 250: the paper's flaw, features depend on batch composition.
        cache_dir: where features are kept; None is `features` inside the run's directory.
        feature_dtype: numpy type in which they are kept.

    Raises:
        ValueError: if an argument is outside its range.
    """

    measures: tuple[str, ...] = ()  # what `make_features` measures of each item
    output_scale: Tensor

    def __init__(
        self,
        n_classes: int,
        n_features: int,
        readout: str,
        readout_arguments: dict[str, Any] | None,
        feature_scaling: Literal["train", "batch"],
        cache_dir: str | None,
        feature_dtype: str,
    ) -> None:
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"n_classes={n_classes} must be at least 2")
        if n_features < 1:
            raise ValueError(f"n_features={n_features} must be at least 1")
        if readout not in READOUTS:
            raise ValueError(f"readout={readout!r} must be one of {sorted(READOUTS)}")
        if feature_scaling not in ("train", "batch"):
            raise ValueError(f"feature_scaling={feature_scaling!r} must be 'train' or 'batch'")
        self.automatic_optimization = False
        self.n_classes, self.n_features = n_classes, n_features
        self.phase = "features"
        self.solver: Any = None
        self._readout, self._readout_arguments = READOUTS[readout], readout_arguments or {}
        self._batch_scaling = feature_scaling == "batch"
        self._cache_dir, self._feature_dtype = cache_dir, feature_dtype
        self._solver_state: dict[str, Any] | None = None
        self._store: FeatureStore | None = None
        self.register_buffer("output_scale", torch.tensor(0.0))
        self.readout_weight = torch.nn.Parameter(torch.zeros(n_classes, n_features), requires_grad=False)
        self.readout_bias = torch.nn.Parameter(torch.zeros(n_classes), requires_grad=False)
        self.accuracy = torch.nn.ModuleDict(
            {s: MulticlassAccuracy(n_classes, average="micro") for s in ("val", "test")}
        )

    # what a subclass brings

    @abstractmethod
    def make_features(self, batch: dict[str, Any], split: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Features [B, n_features], at least 0, of a batch's items, and what was measured of each, float [B] by the names of `measures`.

        `split` is "train", "val", "test" or "predict".
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of all that determines a feature; kept features serve only modules with the same."""

    @property
    def features_follow_order(self) -> bool:
        """Whether an item's features depend on the items before it, so that none may be skipped."""
        return False

    def tell_measured(self, measured: dict[str, Tensor]) -> None:
        """Log what was measured of the items of a training batch, float64 [B] by name, whether they were made now or found."""

    def advice_if_silent(self) -> str:
        """What to change if all features of all training items are 0."""
        return "look at the images and at the features' parameters"

    # the phases

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """One chunk of features, or one step of the readout solver."""
        if self.phase == "features":
            self._extract(batch, "train")
        elif self.phase == "readout":
            self._advance_readout()
        self.count_step()

    def count_step(self) -> None:
        """Count a step for schedules and checkpoints; nothing is optimised by gradient."""
        cast(LightningOptimizer, self.optimizers()).step()

    def next_phase(self) -> None:
        """Move on after a whole epoch."""
        if self.phase == "features":
            self._gather_features()
            self.phase = "readout"

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Skip the rest of the epoch once the readout is done."""
        return -1 if self.phase == "done" else None

    def on_train_epoch_end(self) -> None:
        """Move on to the next phase, unless a limit of steps or of time cut the epoch short."""
        if inside_epoch(self.trainer):
            return
        self.next_phase()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Features of the validation items, and their accuracy once there is a readout."""
        too_early = self.phase not in _OWN_PHASES and self.trainer.state.fn == "fit"
        if self.trainer.sanity_checking or too_early:
            return
        features = self._extract(batch, "val")
        if self.phase in ("readout", "done"):
            self._score(batch, features, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Accuracy on the test items."""
        self._require_readout()
        self._score(batch, self._extract(batch, "test"), "test")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Class probabilities [B, n_classes]."""
        self._require_readout()
        return self(self.make_features(batch, "predict")[0]).softmax(1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, n_classes] of features [B, n_features]."""
        shares = normalise_counts(features)
        shares = batch_max_scale(shares, 250) if self._batch_scaling else shares / self.output_scale.to(shares)
        return torch.nn.functional.linear(shares.to(self.readout_weight.device), self.readout_weight, self.readout_bias)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """A bookkeeping optimizer: Lightning counts steps by it."""
        return torch.optim.SGD([self.readout_weight, self.readout_bias], lr=1.0)

    # start, end and checkpoints

    def on_fit_start(self) -> None:
        """Refuse a validation-less fit, and resume features that were lost with their directory."""
        name = type(self).__name__
        if not self.trainer.enable_validation:
            raise MisconfigurationException(
                f"{name} selects its readout on validation accuracy: it needs validation data"
            )
        if self.phase == "readout" and 0 in (self.store.size("train"), self.store.size("val")):
            pl.utilities.rank_zero_warn(f"no features found in {self.store.directory}: extracting them again")
            self.phase = "features"

    def on_train_end(self) -> None:
        """Say so where the run ended before its readout."""
        if self.phase != "done":
            pl.utilities.rank_zero_warn(
                f"{type(self).__name__} stopped in phase {self.phase!r}, before its readout was complete"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the phase and the solver beside the buffers."""
        solver = self._solver_state if self.solver is None else self.solver.state_dict()
        checkpoint["feature_readout"] = {"phase": self.phase, "solver": solver}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them."""
        kept = checkpoint["feature_readout"]
        self.phase, self._solver_state, self.solver = kept["phase"], kept["solver"], None

    @property
    def store(self) -> FeatureStore:
        """Features made so far; another fingerprint has another directory."""
        if self._store is None:
            run = self.trainer.log_dir or self.trainer.default_root_dir
            root = Path(self._cache_dir or Path(run) / "features")
            self._store = FeatureStore(root / self.fingerprint(), self.n_features, self._feature_dtype, self.measures)
        return self._store

    # private

    def _extract(self, batch: dict[str, Any], split: str) -> Tensor:
        """Features [B, n_features] of a batch, made where the store does not know them."""
        index = batch["index"].cpu()
        missing = self.store.missing(split, index)
        whole = self.features_follow_order
        # where order matters, also the items whose features an interrupted run has kept must pass again
        if bool(missing.any()) or (whole and self.phase == "features"):
            part = batch if whole or bool(missing.all()) else select_items(batch, missing.nonzero()[:, 0])
            features, measured = self.make_features(part, split)
            self.store.add(split, part["index"].cpu(), part["label"].cpu(), features, measured)
        if split == "train":
            known = self.store.measured(split, index)
            self.tell_measured({name: values for name, values in known.items() if not bool(values.isnan().any())})
        return self.store.counts(split, index)

    def _gather_features(self) -> None:
        if self.trainer.world_size == 1:
            return
        for split in ("train", "val"):
            everyone: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(everyone, self.store.rows(split))
            for rows in everyone:
                self.store.add(split, *rows)

    def _advance_readout(self) -> None:
        if self.solver is None:
            self.solver = self._build_solver()
            if self._solver_state is not None:
                self.solver.load_state_dict(self._solver_state)
        if not self.solver.done:
            metrics = self.solver.step()
            self.log_dict({f"readout/{name}": value for name, value in metrics.items()}, batch_size=1)
            self.log("readout/val_acc", metrics["val_accuracy"], prog_bar=True, logger=False, batch_size=1)
            if self.solver.best_step == self.solver.n_steps:  # validation scores the best readout so far
                self.readout_weight.copy_(self.solver.best_weight)
                self.readout_bias.copy_(self.solver.best_bias)
        if self.solver.done:
            self.phase = "done"
            self.trainer.should_stop = True

    def _build_solver(self) -> Any:
        _, label, features, _ = self.store.rows("train")
        _, val_label, val_features, _ = self.store.rows("val")
        silent = silent_items(features)
        if silent == len(features):
            raise ValueError(
                f"all features of all {len(features)} training items are 0, there is nothing to read out: {self.advice_if_silent()}"
            )
        if self._solver_state is None:  # else it was told before the run was interrupted
            self.log("features/silent_items", float(silent), batch_size=1)
        train, val = normalise_counts(features), normalise_counts(val_features)
        if self._batch_scaling:
            train, val = batch_max_scale(train, 250), batch_max_scale(val, 250)
        else:
            self.output_scale.fill_(feature_scale(train))
            train, val = train / self.output_scale.cpu(), val / self.output_scale.cpu()
        return self._readout(train, label, val, val_label, self.n_classes, **self._readout_arguments)

    def _score(self, batch: dict[str, Any], features: Tensor, split: str) -> None:
        metric = cast(MulticlassAccuracy, self.accuracy[split])
        metric(self(features), batch["label"].to(self.readout_weight.device))
        self.log(f"{split}/accuracy", metric, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(features))

    def _require_readout(self) -> None:
        if self.phase != "done":
            raise MisconfigurationException(
                f"this {type(self).__name__} has no readout yet (phase {self.phase!r}): fit it, or give --ckpt_path"
            )
