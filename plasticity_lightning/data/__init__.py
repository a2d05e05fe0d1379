"""LightningDataModules of the recipes.

Importing this package imports Lightning, but none of scikit-learn, tonic and Pillow: these wait until data need them.
"""

from plasticity_lightning.data.errors import DataArgumentError, DataFormatError, DataNotFoundError
from plasticity_lightning.data.events.emulated_events import EmulatedNMNISTDataModule
from plasticity_lightning.data.events.event_batches import EventBatch, Events, bin_events
from plasticity_lightning.data.events.event_camera import EventCamera
from plasticity_lightning.data.events.event_datamodule import EventDataModule
from plasticity_lightning.data.events.nmnist import NMNISTDataModule
from plasticity_lightning.data.images.datasets import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FashionMNISTDataModule,
    MNISTDataModule,
)
from plasticity_lightning.data.images.image_datamodule import ImageClassificationDataModule, ImageFiles
from plasticity_lightning.data.images.image_folder import ImageFolderDataModule
from plasticity_lightning.data.periodic_signal import PeriodicSignalDataModule
from plasticity_lightning.data.prediction_task import PredictionTaskDataModule
from plasticity_lightning.data.tasks.class_incremental import ClassIncrementalDataModule
from plasticity_lightning.data.tasks.image_tasks import ImageTaskStream, PermutedInputDataModule
from plasticity_lightning.data.tasks.label_shift import LabelShiftDataModule
from plasticity_lightning.data.tasks.slowly_changing_regression import SlowlyChangingRegressionDataModule
from plasticity_lightning.data.tasks.task_stream import TaskStream
from plasticity_lightning.data.tasks.warm_start import WarmStartDataModule

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
    "PeriodicSignalDataModule",
    "PermutedInputDataModule",
    "PredictionTaskDataModule",
    "SlowlyChangingRegressionDataModule",
    "TaskStream",
    "WarmStartDataModule",
    "bin_events",
]
