"""A diverged run says so once, ends, and leaves a sound checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from plasticity_lightning.callbacks import PruneRegrowScheduler
from plasticity_lightning.runtime import AtomicCheckpoint, DivergenceGuard
from plasticity_lightning.runtime.divergence import DivergedError
from tests.cli.toys import ToyData, ToyModule


class Diverging(ToyModule):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if self.trainer.fit_loop.total_batch_idx >= 5 else loss


class ByHand(Diverging):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        self.manual_backward(loss)
        self.optimizers().step()


def trainer(folder: Path, *callbacks) -> Trainer:
    return Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        callbacks=[*callbacks, AtomicCheckpoint(str(folder), every_n_batches=1)],
    )  # fmt: skip


@pytest.mark.parametrize("module", [Diverging, ByHand])
def test_a_diverged_run_ends_and_its_last_checkpoint_is_of_before(module, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="diverged: the loss is not finite by batch 6") as raised:
        trainer(tmp_path, DivergenceGuard()).fit(module(), datamodule=ToyData())
    assert raised.value.status != 0
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["global_step"] == 5
    assert all(torch.isfinite(value).all() for value in content["state_dict"].values())
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_told_otherwise_it_warns_once_and_masks_keep_their_zeros(tmp_path: Path) -> None:
    module, sparse = Diverging(), PruneRegrowScheduler("static_random", sparsity=0.5, summary=False)
    with pytest.warns(UserWarning, match="diverged") as said:
        trainer(tmp_path, sparse, DivergenceGuard("warn")).fit(module, datamodule=ToyData())
    assert sum("diverged" in str(w.message) for w in said) == 1
    for name, mask in sparse.masks.items():
        assert not module.get_parameter(name)[~mask].any()


def test_another_action_is_refused() -> None:
    with pytest.raises(ValueError, match="'stop' or 'warn'"):
        DivergenceGuard("ignore")
