"""What a learner of task streams does whatever its loss: it trains, and scores each task while it is trained.

A score is prequential: every batch counts with the prediction made before the update on it. `online` averages over all
epochs of a task, `final` over its last one. Both are written once per task, at the task's index. The module knows
nothing of measures or interventions: they are Callbacks.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from plasticity_lightning.protocols import HasTasks
from plasticity_lightning.runtime.clock import logging_due
from plasticity_lightning.runtime.exact_loops import inside_epoch

__all__ = ["ContinualLearner"]


class ContinualLearner(LightningModule, ABC):
    """Trains a network on a stream of tasks.

    The data module says which task an epoch belongs to (`protocols.HasTasks`). Subclasses name their score, and give
    the loss and a metric of it.

    Args:
        network: maps inputs [B, ...] to outputs [B, K].
        optimizer: called with the parameters.

    Logs:
        `task/online_<score>`, `task/final_<score>`, `task/index` once per task, with the task as the step;
        `train/loss` every `log_every_n_steps` batches; `val/<score>` and `test/<score>` where the data have these.

    Raises:
        MisconfigurationException: at the start of `fit`, if there is no data module with `task_of`.
    """

    score: ClassVar[str]

    def __init__(self, network: nn.Module, optimizer: OptimizerCallable = torch.optim.Adam) -> None:
        super().__init__()
        self.network = network
        self.optimizer_factory = optimizer
        self.metrics = nn.ModuleDict({name: self.metric() for name in ("online", "final", "val", "test")})

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Scalar mean loss of a batch."""

    @abstractmethod
    def metric(self) -> Metric:
        """A fresh metric of the score; its states reduce by sums."""

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [B, K] of the network."""
        output: Tensor = self.network(x)
        return output

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch; its score counts for the task before the update is made."""
        x, target = batch
        output = self(x)
        loss = self.loss(output, target)
        detached = output.detach()
        self._metric("online").update(detached, target)
        self._metric("final").update(detached, target)
        if logging_due(self.trainer):
            self.log("train/loss", loss.detach(), batch_size=len(target))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score of the validation data."""
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score of the test data."""
        self._evaluate("test", batch)

    def configure_optimizers(self) -> Optimizer:
        """One optimizer of all parameters."""
        return self.optimizer_factory(self.parameters())

    # tasks

    def on_fit_start(self) -> None:
        """Refuse data without tasks."""
        if not isinstance(self._datamodule(), HasTasks):
            raise MisconfigurationException(
                f"{type(self).__name__} needs a data module with `task_of(epoch) -> int`, such as LabelShiftDataModule; "
                f"got {type(self._datamodule()).__name__}"
            )

    def on_train_epoch_end(self) -> None:
        """Report a task that ends with this epoch."""
        if inside_epoch(self.trainer):
            return  # by a limit of steps or of time: the task has not ended
        epoch = self.trainer.current_epoch
        tasks: Any = self._datamodule()
        task = tasks.task_of(epoch)
        if tasks.task_of(epoch + 1) != task or epoch + 1 == self.trainer.max_epochs:
            self._report(task)
            self._metric("online").reset()
        self._metric("final").reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums of the unfinished task, added up over all processes."""
        checkpoint["task_metrics"] = {
            name: {
                "updates": self._metric(name)._update_count,
                "sums": {
                    key: self.trainer.strategy.reduce(torch.as_tensor(value).clone(), reduce_op="sum")
                    for key, value in self._metric(name).metric_state.items()
                },
            }
            for name in ("online", "final")
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the sums up again, on one process only, since they are added up when they are read."""
        if not self.trainer.is_global_zero:
            return
        for name, kept in checkpoint["task_metrics"].items():
            metric = self._metric(name)
            for key, value in kept["sums"].items():
                setattr(metric, key, value.to(metric.device))
            metric._update_count = kept["updates"]  # else `compute` warns that there was no update

    # private

    def _metric(self, name: str) -> Metric:
        metric = self.metrics[name]
        assert isinstance(metric, Metric)
        return metric

    def _datamodule(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    def _evaluate(self, name: str, batch: tuple[Tensor, Tensor]) -> None:
        x, target = batch
        metric = self._metric(name)
        metric.update(self(x), target)
        self.log(f"{name}/{self.score}", metric, on_step=False, on_epoch=True, batch_size=len(target))

    def _report(self, task: int) -> None:
        """Scores of a finished task: to the loggers at the task's index, and to `callback_metrics` for other callbacks."""
        values = {f"task/{name}_{self.score}": self._metric(name).compute() for name in ("online", "final")}
        self.log_dict(values | {"task/index": float(task)}, logger=False)
        numbers = {name: float(value) for name, value in values.items()}
        for logger in self.trainer.loggers:
            logger.log_metrics(numbers | {"task/index": float(task)}, step=task)
