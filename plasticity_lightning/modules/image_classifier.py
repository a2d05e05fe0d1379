"""An image classifier whose network, optimizer and learning-rate schedule come from the recipe.

It is the module of the sparse-training recipes, yet knows nothing of pruning: masks are the business of a callback
that acts on any module's parameters. So the same class trains the dense baseline, every sparse method, and a
stranger's network by its import path.

Source of the recipes' settings: Liu et al. 2021, "Sparse Training via Boosting Pruning Plasticity with
Neuroregeneration" (GraNet), and its published code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from plasticity_lightning.networks.build import build_network
from plasticity_lightning.runtime.hyperparameters import save_plain_hyperparameters

__all__ = ["ImageClassifier"]

Stage = Literal["train", "val", "test"]


class ImageClassifier(LightningModule):
    """Cross-entropy classification of batches `(image [B, C, H, W], label int64 [B])`.

    Logs `train/loss`, `train/accuracy` and the same under `val/` and `test/`, averages over an epoch's items.

    Args:
        network: name of one of the package's networks (`plasticity_lightning.networks.build.NETWORKS`), or an import path
            such as `timm.create_model` or `torchvision.models.resnet18`.
        network_arguments: keyword arguments of that network, the number of classes among them.
        n_classes: width of the logits, at least 2.
        optimizer: factory over parameter groups.
        lr_scheduler: factory over the optimizer; None keeps the learning rate.
        interval: whether the scheduler steps once an epoch or once a batch.
        warmup_epochs: epochs over which the learning rate grows linearly, batch by batch, from nearly 0 to the scheduled
            value; at least 0, fractions allowed.
        label_smoothing: in [0, 1).
        decay_norm_and_bias: whether weight decay applies to parameters with fewer than two dimensions (batch norm,
            biases); False gives them a group of their own with `weight_decay` 0.
        channels_last: keep images and convolutions in that memory format, which is faster on most hardware.
        compile: compile the network in place, which leaves the names of its parameters as they are.

    Raises:
        ValueError: if an argument is outside its range, or the network cannot be built.
    """

    def __init__(
        self,
        network: str = "cifar_resnet50",
        network_arguments: dict[str, Any] | None = None,
        n_classes: int = 10,
        optimizer: Callable[[Iterable[Any]], Optimizer] = lambda params: SGD(params, lr=0.1, momentum=0.9),
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        interval: Literal["epoch", "step"] = "epoch",
        warmup_epochs: float = 0.0,
        label_smoothing: float = 0.0,
        decay_norm_and_bias: bool = True,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}")
        if interval not in ("epoch", "step"):
            raise ValueError(f"interval must be 'epoch' or 'step', got {interval!r}")
        if warmup_epochs < 0:
            raise ValueError(f"warmup_epochs must not be negative, got {warmup_epochs}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        # factories are functions, which checkpoints read with weights_only=True cannot hold
        save_plain_hyperparameters(self, ignore=["optimizer", "lr_scheduler"])
        self.network = build_network(network, network_arguments)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        if compile:
            self.network.compile()
        self.n_classes = n_classes
        self.optimizer, self.lr_scheduler, self.interval = optimizer, lr_scheduler, interval
        self.warmup_epochs, self.decay_norm_and_bias = warmup_epochs, decay_norm_and_bias
        self.channels_last = channels_last
        self.loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.averages = nn.ModuleDict(
            {
                # the loss already refuses labels out of range; the metric's own checks cost more than a small step
                f"{stage}_accuracy": MulticlassAccuracy(n_classes, average="micro", validate_args=False)
                for stage in ("train", "val", "test")
            }
        )
        self.averages.update(
            {f"{stage}_loss": MeanMetric(nan_strategy="disable") for stage in ("train", "val", "test")}
        )
        self._warmup_batches = 0

    def forward(self, image: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits [B, n_classes]."""
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        return self.network(image)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch."""
        return self._step("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and accuracy of one batch."""
        self._step("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and accuracy of one batch."""
        self._step("test", batch)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's averages."""
        self._log_averages("train")

    def on_validation_epoch_end(self) -> None:
        """Log the averages over the validation data."""
        self._log_averages("val")

    def on_test_epoch_end(self) -> None:
        """Log the averages over the test data."""
        self._log_averages("test")

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Class probabilities [B, n_classes]."""
        return self(batch[0]).softmax(1)

    def configure_optimizers(self) -> Any:
        """The recipe's optimizer and schedule, with the learning rate warmed up where that is asked for."""
        optimizer = self.optimizer(self._parameter_groups())
        if self.lr_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.lr_scheduler(optimizer), "interval": self.interval},
        }

    def on_train_start(self) -> None:
        """Turn the warm-up's epochs into batches.

        Raises:
            MisconfigurationException: if warm-up is asked for and the training data have no length.
        """
        batches = self.trainer.num_training_batches
        if self.warmup_epochs and batches == float("inf"):
            raise MisconfigurationException(
                f"warmup_epochs={self.warmup_epochs} needs training data with a length; this loader has none"
            )
        self._warmup_batches = round(self.warmup_epochs * batches) if self.warmup_epochs else 0

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """One step, with a smaller learning rate during warm-up; the schedule's own value is left as it is."""
        done = self.trainer.fit_loop.total_batch_idx + 1
        factor = done / self._warmup_batches if done < self._warmup_batches else 1.0
        scheduled = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups if factor < 1 else ():
            group["lr"] = group["lr"] * factor
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        for group, lr in zip(optimizer.param_groups, scheduled, strict=True):
            group["lr"] = lr

    def _step(self, stage: Stage, batch: tuple[Tensor, Tensor]) -> Tensor:
        image, label = batch
        logits = self(image)
        if logits.shape[-1] != self.n_classes:
            raise MisconfigurationException(
                f"the network returns {logits.shape[-1]} logits and n_classes is {self.n_classes}; "
                "set both through network_arguments and n_classes"
            )
        loss = self.loss(logits, label)
        # one value an item: MeanMetric ignores its weights where the check for NaN, a synchronisation, is switched off
        self._average(stage, "loss").update(loss.detach().expand(len(label)))
        self._average(stage, "accuracy").update(logits.detach(), label)
        return loss

    def _log_averages(self, stage: Stage) -> None:
        # once an epoch: `self.log` in every step takes longer than a step of the smallest networks
        for name in ("loss", "accuracy"):
            self.log(f"{stage}/{name}", self._average(stage, name), prog_bar=stage == "val")

    def _average(self, stage: Stage, name: str) -> Metric:
        return cast(Metric, self.averages[f"{stage}_{name}"])

    def _parameter_groups(self) -> list[Any]:
        trained = [p for p in self.parameters() if p.requires_grad]
        if self.decay_norm_and_bias:
            return trained
        return [
            {"params": [p for p in trained if p.dim() >= 2]},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        ]
