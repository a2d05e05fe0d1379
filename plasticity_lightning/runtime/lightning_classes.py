"""Lightning's classes by name: `lightning.pytorch` and `pytorch_lightning` ship two copies of each.

A callback may run in the Trainer of either package, and `isinstance` knows only the copy that it has imported.
"""

from typing import Any

from lightning.pytorch import Trainer

__all__ = ["is_lightning", "keeps_parameters_whole"]


def is_lightning(instance: Any, *names: str) -> bool:
    """Whether `instance` is of a class of one of these names, or of a subclass, in either package."""
    packages = {"lightning", "pytorch_lightning"}
    return any(kind.__name__ in names and kind.__module__.split(".")[0] in packages for kind in type(instance).__mro__)


def keeps_parameters_whole(trainer: Trainer) -> bool:
    """Whether every rank holds whole parameters: one device or ddp, not FSDP, DeepSpeed or tensor parallelism."""
    return is_lightning(trainer.strategy, "SingleDeviceStrategy", "DDPStrategy")
