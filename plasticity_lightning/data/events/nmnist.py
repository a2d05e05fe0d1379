"""N-MNIST: MNIST recorded by an event camera that made three saccades in front of a monitor (34x34x2, 300 ms).

Source: Orchard et al. 2015; the split is that of Ivanov & Michmizos 2021: recordings 0..49999 of the training file
train, 50000..59999 validate, in the order of their numbers, and the official 10,000 test.
"""

from typing import Any

from plasticity_lightning.data import catalogue
from plasticity_lightning.data.events.event_datamodule import EventDataModule
from plasticity_lightning.data.events.nmnist_format import NMNISTRecordings, import_tonic_reader
from plasticity_lightning.data.sources import locate

__all__ = ["NMNISTDataModule"]


class NMNISTDataModule(EventDataModule):
    """N-MNIST from its binary files, in class folders or in the official `Train.zip` and `Test.zip`.

    Needs tonic: `pip install 'plasticity-lightning[events]'`. The data have to be obtained by hand.

    Args:
        root: folder to look in first; see `plasticity_lightning.data.sources`.
        **kwargs: arguments of `EventDataModule`.
    """

    def __init__(self, root: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root

    def recordings(self) -> tuple[NMNISTRecordings, NMNISTRecordings]:
        """Find the files and list the recordings; events are read batch by batch."""
        import_tonic_reader()  # say now, not at the first batch, if it is not installed
        paths = locate(catalogue.NMNIST, self.root).paths
        return NMNISTRecordings(paths["train"]), NMNISTRecordings(paths["test"])
