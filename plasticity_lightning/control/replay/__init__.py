"""Frame replay: frames stored once, batches drawn in one compiled pass, content appended beside the checkpoints."""

from plasticity_lightning.control.replay.replay import Batch, Draw, FrameReplay

__all__ = ["Batch", "Draw", "FrameReplay"]
