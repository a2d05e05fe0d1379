"""LightningDataModules of the recipes.

Importing this package imports Lightning, but none of scikit-learn, tonic and Pillow: these wait until data need them.
"""

from plasticity_lightning.data.class_incremental import ClassIncrementalDataModule
from plasticity_lightning.data.emulated_events import EmulatedNMNISTDataModule
from plasticity_lightning.data.errors import DataArgumentError, DataFormatError, DataNotFoundError
from plasticity_lightning.data.event_batches import EventBatch, Events, bin_events
from plasticity_lightning.data.event_camera import EventCamera
from plasticity_lightning.data.event_datamodule import EventDataModule
from plasticity_lightning.data.events import NMNISTDataModule
from plasticity_lightning.data.image_datamodule import ImageClassificationDataModule, ImageFiles
from plasticity_lightning.data.image_folder import ImageFolderDataModule
from plasticity_lightning.data.image_tasks import ImageTaskStream, PermutedInputDataModule
from plasticity_lightning.data.images import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FashionMNISTDataModule,
    MNISTDataModule,
)
from plasticity_lightning.data.label_shift import LabelShiftDataModule
from plasticity_lightning.data.slowly_changing_regression import SlowlyChangingRegressionDataModule
from plasticity_lightning.data.task_stream import TaskStream
from plasticity_lightning.data.warm_start import WarmStartDataModule

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "ClassIncrementalDataModule",
    "DataArgumentError",
    "DataFormatError",
    "DataNotFoundError",
    "DigitsDataModule",
    "EmulatedNMNISTDataModule",
    "EventBatch",
    "EventCamera",
    "EventDataModule",
    "Events",
    "FashionMNISTDataModule",
    "ImageClassificationDataModule",
    "ImageFiles",
    "ImageFolderDataModule",
    "ImageTaskStream",
    "LabelShiftDataModule",
    "MNISTDataModule",
    "NMNISTDataModule",
    "PermutedInputDataModule",
    "SlowlyChangingRegressionDataModule",
    "TaskStream",
    "WarmStartDataModule",
    "bin_events",
]
