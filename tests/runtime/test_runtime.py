"""Clock, random state, atomic files, seeded order."""

import random
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Trainer

from plasticity_lightning.runtime import (
    AtomicCheckpoint,
    Clock,
    GracefulStop,
    ResumableDataLoader,
    RNGState,
    SeededSampler,
)
from plasticity_lightning.runtime.rng import get_rng_state, set_rng_state
from tests.cli.toys import SignalAt, ToyData, ToyModule


def test_the_clock_triggers_on_crossing_not_on_equality():
    clock = Clock(5, "update")
    # 4 -> 6 steps over 5, 6 -> 9 crosses nothing, 9 -> 21 crosses 10, 15 and 20 but is one trigger
    assert [clock.crossed(n) for n in (4, 6, 9, 21, 24)] == [False, True, False, True, False]
    again = Clock(5, "update")
    again.load_state_dict(clock.state_dict())
    assert again.crossed(25)


@pytest.mark.parametrize(("every", "unit"), [(0, "batch"), (1, "tick")])
def test_the_clock_refuses_nonsense(every, unit):
    with pytest.raises(ValueError, match="must be"):
        Clock(every, unit)


def test_the_random_state_survives_a_weights_only_file(tmp_path):
    torch.save(get_rng_state(), tmp_path / "s.pt")
    first = (torch.rand(3).tolist(), random.random(), np.random.rand(), np.random.randn())  # noqa: NPY002
    set_rng_state(torch.load(tmp_path / "s.pt", weights_only=True))
    assert (torch.rand(3).tolist(), random.random(), np.random.rand(), np.random.randn()) == first  # noqa: NPY002


@given(st.integers(1, 60), st.integers(0, 1000), st.integers(0, 50))
def test_an_epoch_is_a_permutation_given_by_seed_and_epoch(length, seed, epoch):
    order = SeededSampler(length, seed).order(epoch)
    assert sorted(order) == list(range(length))
    assert order == SeededSampler(length, seed).order(epoch)


def test_ranks_share_one_order_and_get_equal_numbers(monkeypatch):
    sampler = SeededSampler(7, seed=1)
    order = sampler.order(0)
    parts = []
    for rank in range(3):
        monkeypatch.setattr("plasticity_lightning.runtime.loaders._rank_and_world", lambda r=rank: (r, 3))
        parts.append(list(sampler))
        assert len(sampler) == 3
    dealt = [parts[i % 3][i // 3] for i in range(9)]
    assert dealt[:7] == order
    assert set(dealt[7:]) <= set(order)


def test_a_loader_resumes_behind_the_given_batches():
    data = list(range(20))
    loader = ResumableDataLoader(data, batch_size=3, shuffle=True, seed=4)
    loader.sampler.set_epoch(2)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = loader.state_dict()
    rest = [b.tolist() for b in batches]
    again = ResumableDataLoader(data, batch_size=3, shuffle=True, seed=4)
    again.load_state_dict(state)
    again.sampler.set_epoch(2)
    assert [b.tolist() for b in again] == rest
    again.sampler.set_epoch(3)
    assert len(list(again)) == 7


def test_killing_a_save_leaves_the_previous_file(tmp_path):
    code = (
        "import sys, torch\nfrom pathlib import Path\nfrom plasticity_lightning.runtime.checkpoint_file import write_checkpoint\n"
        "i = 0\nwhile True:\n"
        "    write_checkpoint({'i': i, 'x': torch.full((200_000,), float(i))}, Path(sys.argv[1]))\n    i += 1\n"
    )
    path = tmp_path / "last.ckpt"
    child = subprocess.Popen([sys.executable, "-c", code, str(path)])
    deadline = time.monotonic() + 240
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    state = torch.load(path, weights_only=True)
    assert torch.equal(state["x"], torch.full((200_000,), float(state["i"])))


def test_a_failing_write_keeps_the_previous_file(tmp_path):
    from plasticity_lightning.runtime.checkpoint_file import write_checkpoint

    path = tmp_path / "last.ckpt"
    write_checkpoint({"i": 1}, path)
    with pytest.raises(Exception, match=r"pickle|local"):
        write_checkpoint({"i": lambda: 0}, path)
    assert torch.load(path, weights_only=True) == {"i": 1}


@pytest.mark.parametrize(
    "bad", [{"every_n_batches": 0}, {"every_seconds": 0.0}, {"mode": "mx"}, {"every_n_epochs": -1}]
)
def test_checkpoint_arguments_are_checked(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        AtomicCheckpoint(**bad)


def test_handlers_are_given_back():
    before = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    stop = GracefulStop()
    trainer = types.SimpleNamespace()
    stop.on_train_start(trainer, None)
    assert signal.getsignal(signal.SIGINT) == stop._request
    stop.on_exception(trainer, None, RuntimeError())
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_another_number_of_ranks_is_refused_unless_allowed():
    trainer = types.SimpleNamespace(world_size=2, global_rank=0)
    strict, loose = RNGState(), RNGState(strict=False)
    for callback in (strict, loose):
        callback.on_load_checkpoint(trainer, None, {"rng_state": [get_rng_state()]})
    with pytest.raises(ValueError, match="devices=1"):
        strict.on_train_start(trainer, None)
    with pytest.warns(UserWarning, match="1 ranks"):
        loose.on_train_start(trainer, None)


def test_a_stop_inside_an_epoch_does_not_validate():
    class Counting(ToyModule):
        validated = 0

        def validation_step(self, batch, batch_idx):
            self.validated += 1

    stop, module = GracefulStop(), Counting()
    trainer = Trainer(
        max_epochs=2,
        callbacks=[SignalAt(batch=10), stop],  # 8 batches an epoch: in the second one
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(module, datamodule=ToyData())
    assert stop.stop_requested
    assert trainer.fit_loop.total_batch_idx + 1 == 10
    assert module.validated == 2  # the two batches after the first epoch
    assert trainer.limit_val_batches == 1.0
