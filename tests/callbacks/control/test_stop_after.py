"""Training ends after a number of frames of any module that counts them."""

import lightning.pytorch as pl
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.callbacks import StopAfter
from plasticity_lightning.runtime import AtomicCheckpoint


class Counting(BoringModel):
    def progress(self):
        batches = self.trainer.fit_loop.total_batch_idx + 1 if self._trainer else 0
        return {"frame": 4 * batches, "step": batches}


def fit(model, *callbacks, ckpt_path=None):
    trainer = pl.Trainer(
        max_epochs=-1, callbacks=list(callbacks), logger=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", limit_val_batches=0, enable_checkpointing=len(callbacks) > 1,
    )  # fmt: skip
    trainer.fit(model, ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.mark.parametrize(("limit", "batches"), [({"frames": 20}, 5), ({"frames": 21}, 6), ({"steps": 7}, 7)])
def test_stops_at_the_first_batch_that_reaches_the_limit(limit, batches):
    assert fit(Counting(), StopAfter(**limit)).fit_loop.total_batch_idx + 1 == batches


def test_a_module_that_does_not_count_is_told_what_to_add():
    with pytest.raises(MisconfigurationException, match="progress\\(\\) that returns a dict with the key 'frame'"):
        fit(BoringModel(), StopAfter(frames=5))
    with pytest.raises(MisconfigurationException, match="'update'"):
        fit(Counting(), StopAfter(updates=5))


@pytest.mark.parametrize("limits", [{}, {"frames": 0}, {"frames": 1, "steps": 1}])
def test_exactly_one_positive_limit(limits):
    with pytest.raises(ValueError, match="exactly one"):
        StopAfter(**limits)


@pytest.mark.parametrize(("frames", "batches"), [(20, 5), (36, 9)])
def test_an_ended_run_goes_on_to_a_higher_limit_and_not_at_the_same(frames, batches, tmp_path):
    ended = fit(Counting(), StopAfter(frames=20), AtomicCheckpoint(str(tmp_path)))
    assert ended.fit_loop.total_batch_idx + 1 == 5
    resumed = fit(
        Counting(), StopAfter(frames=frames), AtomicCheckpoint(str(tmp_path)), ckpt_path=tmp_path / "last.ckpt"
    )
    assert resumed.fit_loop.total_batch_idx + 1 == batches
