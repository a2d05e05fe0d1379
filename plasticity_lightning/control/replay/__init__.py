"""Frame replay: frames stored once, batches drawn in one compiled pass, content appended beside the checkpoints."""

from plasticity_lightning.control.replay.batch import Batch, Draw
from plasticity_lightning.control.replay.replay import FrameReplay

__all__ = ["Batch", "Draw", "FrameReplay"]
