"""Pruning plasticity of checkpoints: prune, continue training, compare with the unpruned network trained equally long.

The study takes one function that builds a fresh Trainer and module; what these are is none of its business, so it works
for any module whose validation (or test) logs the metric. All continuations of a checkpoint restore its random state
and see the same batches, so that they differ by the pruning alone.

Source: Liu et al. 2021, "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration", section 3.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from plasticity_lightning.callbacks.sparse_training.one_shot_pruning import OneShotPruning, PruneShare
from plasticity_lightning.errors import UserError, nearest
from plasticity_lightning.runtime.atomic_file import atomic_file
from plasticity_lightning.runtime.checkpoint_file import read_checkpoint
from plasticity_lightning.runtime.graceful_stop import GracefulStop

__all__ = [
    "Arm",
    "Build",
    "LearningRate",
    "Outcome",
    "StudyStopped",
    "arms",
    "finished_epochs",
    "run_study",
    "write_outcomes",
]

LearningRate = Literal["schedule", "constant"]
Build = Callable[[list[Callback], int], tuple[Trainer, LightningModule, LightningDataModule | None]]


class StudyStopped(Exception):  # noqa: N818 - a request, not an error
    """A signal stopped a continuation.

    Args:
        signal_number: 2 or 15.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number


@dataclass(frozen=True)
class Arm:
    """One way of pruning a checkpoint.

    Attributes:
        rate: share of the living weights that is pruned, in [0, 1); 0 is the unpruned network.
        share: `"uniform"` or `"global"`.
        regenerate: whether as many connections are grown by gradient.
    """

    rate: float
    share: PruneShare
    regenerate: bool


@dataclass(frozen=True)
class Outcome:
    """What became of one arm. All metrics are in the metric's own unit.

    Attributes:
        checkpoint: path.
        epoch: epochs of training that the checkpoint holds.
        learning_rate: of the first parameter group when training went on.
        rate: as in `Arm`.
        share: as in `Arm`.
        regenerate: as in `Arm`.
        sparsity: of the weights after continuing, in [0, 1].
        before: metric of the checkpoint.
        pruned: metric right after pruning (regenerated connections start at 0 and change nothing here).
        continued: metric after training on.
        unpruned: metric of the unpruned network after training equally long.
    """

    checkpoint: str
    epoch: int
    learning_rate: float
    rate: float
    share: str
    regenerate: bool
    sparsity: float
    before: float
    pruned: float
    continued: float
    unpruned: float

    @property
    def plasticity(self) -> float:
        """`continued` minus `unpruned`: 0 is full recovery."""
        return self.continued - self.unpruned


def arms(rates: Sequence[float], shares: Sequence[PruneShare], regenerate: Sequence[bool]) -> list[Arm]:
    """All combinations.

    Raises:
        UserError: if a rate is outside (0, 1) or a list is empty.
    """
    if not rates or not shares or not regenerate:
        raise UserError("prune_rates and shares must not be empty")
    wrong = [rate for rate in rates if not 0 < rate < 1]
    if wrong:
        raise UserError(f"prune_rates={list(rates)}: each must lie strictly between 0 and 1, got {wrong[0]}")
    return [Arm(rate, share, grow) for share in shares for grow in regenerate for rate in rates]


def run_study(
    build: Build,
    checkpoints: Sequence[Path],
    plan: Sequence[Arm],
    epochs: int,
    metric: str = "val/accuracy",
    learning_rate: LearningRate = "schedule",
) -> Iterator[Outcome]:
    """Run all arms on all checkpoints, one outcome at a time.

    Args:
        build: (callbacks to add, max_epochs) -> a fresh Trainer, a fresh module and the data module.
        checkpoints: Lightning checkpoints with the state of the optimizers.
        plan: what to do to each of them.
        epochs: to continue for, at least 1; an epoch that the checkpoint has begun counts as one.
        metric: logged by the validation or, if it starts with `test`, by the test.
        learning_rate: `"schedule"` goes on with the schedule in the checkpoint, `"constant"` holds the learning rate that
            the checkpoint has reached.

    Raises:
        UserError: if a checkpoint cannot be continued or the metric is not logged.
        StudyStopped: if SIGINT or SIGTERM stopped a continuation.
    """
    if epochs < 1:
        raise UserError(f"epochs must be at least 1, got {epochs}")
    for path in checkpoints:
        epoch = finished_epochs(path)
        before, unpruned, _, _ = _run_arm(build, path, Arm(0.0, "global", False), epoch + epochs, metric, learning_rate)
        for arm in plan:
            pruned, continued, rate, sparsity = _run_arm(build, path, arm, epoch + epochs, metric, learning_rate)
            yield Outcome(
                checkpoint=str(path),
                epoch=epoch,
                learning_rate=rate,
                **asdict(arm),
                sparsity=sparsity,
                before=before,
                pruned=pruned,
                continued=continued,
                unpruned=unpruned,
            )


def finished_epochs(checkpoint: Path) -> int:
    """Epochs of training that a checkpoint holds.

    Raises:
        UserError: if it holds no state of training to go on from.
    """
    content = read_checkpoint(checkpoint)
    if not content.get("optimizer_states") or "fit_loop" not in content.get("loops", {}):
        raise UserError(
            f"{checkpoint} holds no optimizer state (save_weights_only?), so training cannot go on from it; "
            "give a full checkpoint"
        )
    return int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])


def write_outcomes(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write `outcomes.csv` and `outcomes.json`, each complete or not at all."""
    rows: list[dict[str, Any]] = [{**asdict(outcome), "plasticity": outcome.plasticity} for outcome in outcomes]
    for name in ("outcomes.csv", "outcomes.json"):
        text = io.StringIO(newline="")
        if name.endswith(".json"):
            json.dump(rows, text, indent=2)
        else:
            writer = csv.DictWriter(text, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        with atomic_file(folder / name) as file:
            file.write(text.getvalue().encode())


class _LearningRateWatch(Callback):
    """Counts batches, notes the learning rate at the start, and holds it there if asked to."""

    def __init__(self, hold: bool) -> None:
        self.hold = hold
        self.rates: list[list[float]] = []
        self.batches = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rates = [[float(group["lr"]) for group in o.param_groups] for o in trainer.optimizers]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches += 1
        if not self.hold:
            return
        for optimizer, rates in zip(trainer.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate


def _run_arm(
    build: Build, path: Path, arm: Arm, max_epochs: int, metric: str, learning_rate: LearningRate
) -> tuple[float, float, float, float]:
    """(metric right after pruning, metric after continuing, learning rate at the start, sparsity at the end)."""
    pruning = {"rate": arm.rate, "share": arm.share}
    trainer, module, data = build([OneShotPruning(**pruning)], max_epochs)  # type: ignore[arg-type]  # one dict
    pruned = _measure(trainer, module, data, metric, path)
    callback = OneShotPruning(**pruning, regenerate=arm.regenerate)  # type: ignore[arg-type]  # one dict
    watch = _LearningRateWatch(hold=learning_rate == "constant")
    trainer, module, data = build([callback, watch], max_epochs)
    trainer.fit(module, datamodule=data, ckpt_path=path)
    for stopper in trainer.callbacks:
        if isinstance(stopper, GracefulStop) and stopper.stop_requested:
            raise StudyStopped(stopper.signal_number)
    # an epoch that the checkpoint had begun may be short; Lightning's own epoch counter runs on after max_steps
    whole = trainer.num_training_batches
    if whole != float("inf") and watch.batches <= (max_epochs - finished_epochs(path) - 1) * whole:
        raise UserError(
            f"{path}: training stopped after {watch.batches} batches, {whole} are one epoch; the study needs "
            "continuations of equal length (no early stopping, max_steps or max_time)"
        )
    sparsity = callback.sparsity
    return pruned, _measure(trainer, module, data, metric, None), watch.rates[0][0], sparsity


def _measure(
    trainer: Trainer, module: LightningModule, data: LightningDataModule | None, metric: str, path: Path | None
) -> float:
    run = trainer.test if metric.startswith("test") else trainer.validate
    logged = {
        name: value
        for part in run(module, datamodule=data, ckpt_path=path, verbose=False)
        for name, value in part.items()
    }
    if metric not in logged:
        raise UserError(
            f"metric {metric!r} is not logged; logged: {', '.join(sorted(logged)) or 'nothing'}{nearest(metric, logged)}"
        )
    return float(logged[metric])
