"""A video of one evaluation episode, as an animated GIF in TensorBoard and beside the checkpoints."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from plasticity_lightning.protocols import CoverageRow, RecordsEpisodes
from plasticity_lightning.runtime.atomic_file import atomic_file
from plasticity_lightning.runtime.coverage import announce_coverage
from plasticity_lightning.runtime.updates import progress_of

__all__ = ["EvaluationVideo", "animated_gif"]


class EvaluationVideo(Callback):
    """Keeps the pictures of the first episode of an evaluation as `eval/episode`.

    Acts on any module with the protocol `RecordsEpisodes`. TensorBoard plays a GIF that stands in an image summary, so
    no video library is needed.

    Args:
        every: evaluations between two videos, at least 1; the first evaluation gives one. A test always gives one.
        size: side of the pictures in pixels.
        frames_per_second: of the video.
        every_nth: keep each n-th picture.
        folder: where the files go, named by frame; None takes `videos` in the run's folder, if it has one.

    Raises:
        ValueError: if a number is not positive.
        MisconfigurationException: at setup, if the module does not record episodes.
    """

    def __init__(
        self,
        every: int = 1,
        size: int = 128,
        frames_per_second: int = 20,
        every_nth: int = 1,
        folder: str | None = None,
    ) -> None:
        for name, value in (
            ("every", every),
            ("size", size),
            ("frames_per_second", frames_per_second),
            ("every_nth", every_nth),
        ):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        self.every, self.size, self.frames_per_second, self.every_nth = every, size, frames_per_second, every_nth
        self.folder = folder
        self._evaluations = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the module records; agree on the folder."""
        log_dir = trainer.log_dir if trainer.loggers else None  # a collective: all ranks ask
        self._folder = self.folder or (f"{log_dir}/videos" if log_dir else None)
        if not isinstance(pl_module, RecordsEpisodes):
            raise MisconfigurationException(
                f"EvaluationVideo needs {type(pl_module).__name__} to have an attribute record_scenes: int and a method "
                "recorded_scenes() that returns pictures uint8 [T, H, W, 3]"
            )
        if stage == "fit":
            announce_coverage(trainer)

    def coverage(self, trainer: Trainer, pl_module: LightningModule) -> list[CoverageRow]:
        """Episodes; nothing of the network."""
        how = f"nothing of the network: the first episode of an evaluation, one video in {self.every} evaluations"
        return [CoverageRow("EvaluationVideo", type(pl_module).__name__, "filmed", how)]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for pictures if a video is due."""
        due = self._evaluations % self.every == 0 and not trainer.sanity_checking and trainer.is_global_zero
        cast(RecordsEpisodes, pl_module).record_scenes = self.size if due else 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the video."""
        if not trainer.sanity_checking:
            self._evaluations += 1
            self._write(trainer, pl_module, "eval")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for pictures."""
        cast(RecordsEpisodes, pl_module).record_scenes = self.size if trainer.is_global_zero else 0

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the video."""
        self._write(trainer, pl_module, "test")

    def state_dict(self) -> dict[str, Any]:
        """Evaluations so far."""
        return {"evaluations": self._evaluations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on."""
        self._evaluations = state_dict["evaluations"]

    def _write(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        module = cast(RecordsEpisodes, pl_module)
        scenes = module.recorded_scenes() if module.record_scenes else None
        module.record_scenes = 0
        if scenes is None:
            return
        scenes = scenes[:: self.every_nth]
        video, frame = animated_gif(scenes, self.frames_per_second), progress_of(pl_module, "frame") or 0
        if self._folder is not None:
            with atomic_file(Path(self._folder) / f"{stage}_{frame:09d}.gif") as file:
                file.write(video)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                _add_gif(logger.experiment, f"{stage}/episode", video, scenes, frame)


def animated_gif(scenes: Tensor, frames_per_second: int) -> bytes:
    """Pictures uint8 [T, H, W, 3] as an animated GIF that repeats.

    Raises:
        ValueError: if there is no picture.
    """
    from PIL import Image

    if not len(scenes):
        raise ValueError("scenes holds no picture")
    pictures = [Image.fromarray(np.ascontiguousarray(scene)) for scene in scenes.cpu().numpy()]
    buffer = io.BytesIO()
    milliseconds = max(round(1000 / frames_per_second), 20)  # viewers slow down below 20
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    return buffer.getvalue()


def _add_gif(experiment: Any, name: str, video: bytes, scenes: Tensor, step: int) -> None:
    from tensorboard.compat.proto.summary_pb2 import Summary

    _, height, width, _ = scenes.shape
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=video)
    experiment._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
