"""The controller on modules that know nothing of it: a DQN of a stranger's, and supervised learning from a stream."""

from __future__ import annotations

import math
import random
from collections import deque
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from plasticity_lightning.callbacks import AdaptiveReplayRatio, PlasticityMonitor


class Published(BoringModel):
    """Publishes given values as `signal`, one a batch, and has a replay ratio."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values, self.replay_ratio, self.ratios = values, 9.0, []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.ratios.append(self.replay_ratio)
        value = self.values[self.trainer.fit_loop.total_batch_idx]
        if not math.isnan(value):
            self.log("signal", value)
        return super().training_step(batch, batch_idx)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.randn(len(self.values), 32), batch_size=1)


def fit(model: pl.LightningModule, callbacks: list[pl.Callback], **options: Any) -> pl.Trainer:
    settings = {
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        **options,
    }
    datamodule, ckpt = settings.pop("datamodule", None), settings.pop("ckpt_path", None)
    trainer = pl.Trainer(callbacks=callbacks, **settings)
    trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt)
    return trainer


def controller(**options: Any) -> AdaptiveReplayRatio:
    return AdaptiveReplayRatio("signal", **{"unit": "batch", "check_every": 2, "ladder": [0.5, 2], **options})


def test_the_ratio_moves_when_the_published_measure_has_settled() -> None:
    model = Published([0.5, 0.3, 0.2, 0.4, 0.35, 0.25, 0.9, 0.9])  # means of two: 0.4, 0.3, 0.3, 0.9
    callback = controller(raise_when="change <= 0.001")
    fit(model, [callback])
    assert model.ratios == [0.5] * 6 + [2.0] * 2
    assert [row[1] for row in callback.history] == [0.5, 0.5, 2.0, 2.0]


def test_it_goes_both_ways_on_any_ladder() -> None:
    model = Published([0.1, 0.1, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1])
    fit(model, [controller(ladder=[1, 2, 4], raise_when="value > 0.5", lower_when="value < 0.2")])
    assert model.ratios == [1, 1, 1, 1, 2, 2, 4, 4, 2]


def test_resume_continues_the_decisions(tmp_path: Path) -> None:
    values = [0.5, 0.3, 0.2, 0.4, 0.35, 0.25, 0.9, 0.9]
    whole = controller()
    fit(Published(values), [whole])
    for cut in range(1, 8):
        first = fit(Published(values), [controller()], limit_train_batches=cut)
        first.save_checkpoint(tmp_path / "a.ckpt")
        state = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]
        assert any("AdaptiveReplayRatio" in key for key in state)
        resumed = controller()
        # the Trainer goes on in a new epoch: its values are those behind the cut
        model = Published(values)
        fit(model, [resumed], max_epochs=2, ckpt_path=tmp_path / "a.ckpt", limit_train_batches=8 - cut)
        assert str(resumed.history) == str(whole.history), cut  # NaN, no return, differs from itself
        assert resumed.state.state_dict() == whole.state.state_dict()


def test_every_check_is_logged_with_its_reason_and_drawn(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(Published([0.5, 0.5, 0.5, 0.5]), [controller()], logger=logger)
    events = EventAccumulator(logger.log_dir, {"images": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    assert [e.value for e in events.Scalars("adaptive_replay_ratio/ratio")] == [0.5, 2.0]
    texts = [e.tensor_proto.string_val[0].decode() for e in events.Tensors("adaptive_replay_ratio/text_summary")]
    assert "raise_when 'change <= 0.001' held, 0.5 -> 2" in texts[1]
    assert events.Images("adaptive_replay_ratio/chart")


def test_it_warns_once_if_nobody_publishes_the_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plasticity_lightning.callbacks.control.adaptive_replay_ratio._PATIENCE", 3)
    with pytest.warns(UserWarning, match="'signal' was not published in 3 batches"):
        fit(Published([math.nan] * 8), [controller()])


def test_a_module_without_ratio_is_told_what_to_add() -> None:
    with pytest.raises(MisconfigurationException, match=r"BoringModel has no attribute replay_ratio\. Add one"):
        fit(BoringModel(), [controller()])
    with pytest.raises(MisconfigurationException, match=r"unit='episode' needs Published\.progress"):
        fit(Published([1.0]), [controller(unit="episode")])
    with pytest.raises(ValueError, match="unit='day'"):
        controller(unit="day")


class StrangersDQN(pl.LightningModule):
    """A DQN on a walk along a line, written without this package: one step a batch, `replay_ratio` updates on average."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.q = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
        self.memory: deque[tuple[float, int, float, float]] = deque(maxlen=200)
        self.x, self.owed, self.episodes, self.updates = 0.0, 0.0, 0, 0
        self.replay_ratio = 1.0

    def progress(self) -> dict[str, int]:
        return {"episode": self.episodes, "update": self.updates}

    def training_step(self, batch: Any, batch_idx: int) -> None:
        action = random.randrange(2) if random.random() < 0.3 else int(self.q(torch.tensor([[self.x]])).argmax())
        x = self.x + (0.1 if action else -0.1)
        self.memory.append((self.x, action, float(x > 1), x))
        over = abs(x) > 1
        self.episodes += over
        self.x = 0.0 if over else x
        self.owed += self.replay_ratio
        while self.owed >= 1:
            self.owed -= 1
            self.learn()

    def learn(self) -> None:
        x, action, reward, following = (
            torch.tensor(c)[:, None] for c in zip(*random.choices(self.memory, k=16), strict=True)
        )
        with torch.no_grad():
            y = reward + 0.9 * self.q(following).amax(1, keepdim=True) * (following.abs() <= 1)
        loss = F.mse_loss(self.q(x).gather(1, action), y)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        self.updates += 1

    def train_dataloader(self) -> DataLoader:
        return DataLoader(range(400))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


def test_a_strangers_dqn_is_steered_by_its_own_activity() -> None:
    pl.seed_everything(0)
    model = StrangersDQN()
    callback = AdaptiveReplayRatio(
        "plasticity/fau/q", ladder=[0.5, 2], check_every=1, raise_when="change < 0.05", average_over="last"
    )
    fit(model, [PlasticityMonitor(["fau"], every=1, figure_every=0), callback])
    assert model.replay_ratio == 2.0
    first, last = callback.history[0], callback.history[-1]
    assert (first[1], last[1]) == (0.5, 2.0)
    assert 0 < last[2] < 1
    assert 400 * 0.5 < model.updates < 400 * 2


class Stream(pl.LightningDataModule):
    """Data that arrive in chunks; each chunk is given `replay_ratio` times on average before the next one arrives."""

    def __init__(self, chunks: int, replay_ratio: float = 1.0) -> None:
        super().__init__()
        self.chunks, self.replay_ratio, self.passes = chunks, replay_ratio, []

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self._Arriving(self), batch_size=None)

    class _Arriving(torch.utils.data.IterableDataset):
        def __init__(self, owner: Stream) -> None:
            self.owner = owner

        def __iter__(self) -> Any:
            owed = 0.0
            for number in range(self.owner.chunks):
                chunk = torch.randn(8, 32, generator=torch.Generator().manual_seed(number))
                owed += self.owner.replay_ratio  # read again for each chunk
                self.owner.passes.append(int(owed))
                for _ in range(int(owed)):
                    yield chunk
                owed -= int(owed)


def test_supervised_learning_from_a_stream_passes_more_often_over_its_data() -> None:
    class Learner(BoringModel):
        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)["loss"]
            self.log("signal", 1.0)  # settled from the start
            return loss

    stream = Stream(chunks=12)
    fit(Learner(), [controller(ladder=[1, 3], check_every=4)], datamodule=stream)
    # checks behind batches 4 and 8; Lightning fetches one batch ahead, so that chunk 9 is under way at the second
    assert stream.passes == [1] * 9 + [3] * 3
