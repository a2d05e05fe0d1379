"""The best checkpoint is that of the monitor; a second signal has its default effect."""

from __future__ import annotations

import os
import signal
import types
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.runtime import AtomicCheckpoint, GracefulStop

SCORES = [0.3, 0.9, 0.5, 0.9]  # one an epoch: the first 0.9 is the best, a tie does not replace it


class Scripted(pl.LightningModule):
    """Its buffer counts epochs, its score is the script's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.register_buffer("epoch", torch.tensor(-1))

    def on_train_epoch_start(self) -> None:
        self.epoch.fill_(self.trainer.current_epoch)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("score", SCORES[int(self.epoch)])

    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.epoch.expand(len(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def run(folder: Path, saver: AtomicCheckpoint) -> tuple[pl.Trainer, torch.utils.data.DataLoader]:
    loader = torch.utils.data.DataLoader(torch.ones(2, 1))
    trainer = pl.Trainer(
        max_epochs=4, accelerator="cpu", logger=False, callbacks=[saver], enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(Scripted(), loader, loader)
    return trainer, loader


@pytest.mark.parametrize(("mode", "epoch"), [("max", 1), ("min", 0)])
def test_best_is_the_first_of_the_best_epochs_and_predicts(tmp_path: Path, mode: str, epoch: int) -> None:
    saver = AtomicCheckpoint(monitor="score", mode=mode)
    trainer, loader = run(tmp_path, saver)
    assert saver.best_score == pytest.approx(SCORES[epoch])
    assert Path(saver.best_model_path) == tmp_path / "checkpoints" / "best.ckpt"
    predicted = trainer.predict(Scripted(), loader, ckpt_path=saver.best_model_path, weights_only=True)
    assert torch.cat(predicted).tolist() == [epoch] * 2
    assert int(torch.load(saver.last_model_path, weights_only=True)["state_dict"]["epoch"]) == 3


def test_a_monitor_that_nobody_logs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="monitor='scroe' is not logged; logged metrics: score"):
        run(tmp_path, AtomicCheckpoint(monitor="scroe"))


def test_the_first_signal_asks_and_the_second_has_its_default_effect() -> None:
    stop = GracefulStop()
    trainer = types.SimpleNamespace()
    stop.on_train_start(trainer, None)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        stop._request(signal.SIGTERM, None)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # a second one ends the process
    finally:
        stop.on_exception(trainer, None, RuntimeError())


def test_a_checkpoint_callback_serves_a_second_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = AtomicCheckpoint(monitor="score", every_n_batches=3)
    run(tmp_path / "a", saver)
    first = {path.name: path.read_bytes() for path in (tmp_path / "a" / "checkpoints").iterdir()}
    monkeypatch.setattr(f"{__name__}.SCORES", [0.1, 0.05, 0.2, 0.1])  # none is as good as the first fit's best
    run(tmp_path / "b", saver)
    assert saver.best_score == pytest.approx(0.2)
    assert Path(saver.best_model_path) == tmp_path / "b" / "checkpoints" / "best.ckpt"
    assert int(torch.load(saver.best_model_path, weights_only=True)["state_dict"]["epoch"]) == 2
    fresh = AtomicCheckpoint(monitor="score", every_n_batches=3)
    run(tmp_path / "c", fresh)
    again, anew = (torch.load(one.last_model_path, weights_only=True) for one in (saver, fresh))
    assert (again["global_step"], again["callbacks"]) == (anew["global_step"], anew["callbacks"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "a" / "checkpoints").iterdir()} == first
