"""A video is an animated GIF with the episode's pictures, in TensorBoard and in a file."""

import io
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from plasticity_lightning.callbacks import EvaluationVideo
from plasticity_lightning.callbacks.control.evaluation_video import animated_gif


class Player(BoringModel):
    """Plays "episodes" of five pictures whose brightness grows."""

    def __init__(self) -> None:
        super().__init__()
        self.record_scenes, self.asked = 0, []

    def recorded_scenes(self) -> torch.Tensor:
        self.asked.append(self.record_scenes)
        return torch.stack(
            [torch.full((self.record_scenes, self.record_scenes, 3), 50 * t, dtype=torch.uint8) for t in range(5)]
        )

    def progress(self) -> dict[str, int]:
        return {"frame": 100}


def test_pictures_come_back_from_the_gif() -> None:
    scenes = torch.stack([torch.full((8, 10, 3), 60 * t, dtype=torch.uint8) for t in range(3)])
    image = Image.open(io.BytesIO(animated_gif(scenes, 25)))
    assert (image.n_frames, image.size, image.info["duration"]) == (3, (10, 8), 40)
    for t in range(3):
        image.seek(t)
        assert image.convert("RGB").getpixel((3, 3)) == (60 * t,) * 3
    with pytest.raises(ValueError, match="no picture"):
        animated_gif(scenes[:0], 25)


def test_every_second_evaluation_is_shown(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    model = Player()
    trainer = pl.Trainer(
        max_epochs=3, callbacks=[EvaluationVideo(every=2, size=16, every_nth=2)], logger=logger, accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_train_batches=1,
        limit_val_batches=1,
    )  # fmt: skip
    trainer.fit(model)
    assert model.asked == [16, 16]  # the first and the third; none in the sanity check
    events = EventAccumulator(logger.log_dir, {"images": 0})
    events.Reload()
    (image,) = {event.encoded_image_string for event in events.Images("eval/episode")}
    assert image == (Path(logger.log_dir) / "videos" / "eval_000000100.gif").read_bytes()
    assert Image.open(io.BytesIO(image)).n_frames == 3


def test_a_module_that_does_not_record_is_told_what_to_add() -> None:
    trainer = pl.Trainer(callbacks=[EvaluationVideo()], logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(MisconfigurationException, match=r"record_scenes: int and a method recorded_scenes\(\)"):
        trainer.fit(BoringModel())
    with pytest.raises(ValueError, match="every=0"):
        EvaluationVideo(every=0)
