"""An update is one pass of the module's rule, with real optimisers under Lightning's manual optimisation."""

import tempfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from plasticity_lightning.protocols import HasProgress
from plasticity_lightning.runtime import Clock, ResumableDataLoader, Trigger


class Agent(LightningModule):
    """`updates[i]` updates in batch i; optimiser k steps in every `delays[k]`-th update, the first in all of them."""

    def __init__(self, updates, delays):
        super().__init__()
        self.automatic_optimization = False
        self.updates, self.delays, self.made = updates, delays, 0
        self.nets = nn.ModuleList(nn.Linear(1, 1) for _ in delays)

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for _ in range(self.updates[batch_idx]):
            self.made += 1
            for optimizer, net, delay in zip(optimizers, self.nets, self.delays, strict=True):
                if self.made % delay == 0:
                    optimizer.zero_grad()
                    self.manual_backward(net(torch.ones(1, 1)).sum())
                    optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(net.parameters(), 1e-3) for net in self.nets]

    def on_save_checkpoint(self, checkpoint):
        checkpoint["made"] = self.made

    def on_load_checkpoint(self, checkpoint):
        self.made = checkpoint["made"]


class Own(Agent):
    """Says its numbers itself: its rule steps an optimiser twice a pass."""

    def progress(self):
        return {"update": self.made // 2, "frame": 4 * self.made}


class Acts(Callback):
    """Records the batches at whose end a clock or trigger is due."""

    def __init__(self, clock):
        self.clock, self.batches, self.readings = clock, [], []

    @property
    def state_key(self):
        clock = self.clock if isinstance(self.clock, Clock) else self.clock.clock
        return f"{type(self.clock).__name__} {clock.unit}"

    def on_train_start(self, trainer, pl_module):
        self.clock.start(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if isinstance(self.clock, Clock):
            self.readings.append(self.clock.now(trainer, pl_module))
        if self.clock.due(trainer, pl_module):
            self.batches.append(batch_idx)

    def state_dict(self):
        return self.clock.state_dict()

    def load_state_dict(self, state_dict):
        self.clock.load_state_dict(state_dict)


class SaveAfter(Checkpoint):
    """Writes `path` after so many batches; a Checkpoint, since Lightning calls those after all other callbacks."""

    def __init__(self, batches, path):
        self.batches, self.path = batches, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx + 1 == self.batches:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def fit(module, callbacks, ckpt_path=None):
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=len(module.updates),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    data = ResumableDataLoader(torch.utils.data.TensorDataset(torch.zeros(len(module.updates), 1)), batch_size=1)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return trainer


def crossings(counts, every):
    """Indices at which a sequence of counts crosses a multiple of `every`."""
    return [i for i, (a, b) in enumerate(zip([0, *counts], counts, strict=False)) if b // every > a // every]


runs = st.integers(1, 12).flatmap(
    lambda batches: st.tuples(
        st.lists(st.integers(0, 4), min_size=batches, max_size=batches),
        st.lists(st.integers(1, 3), max_size=2).map(lambda rest: [1, *rest]),
        st.integers(1, 7),
        st.integers(0, batches),
    )
)


@settings(max_examples=25)
@given(runs)
def test_an_update_is_one_pass_whatever_the_number_of_optimisers_and_of_updates_in_a_batch(run):
    updates, delays, every, _ = run
    made = torch.tensor(updates).cumsum(0).tolist()
    clock, trigger = Acts(Clock(every, "update")), Acts(Trigger(at=[every, 2 * every + 1], unit="update"))
    trainer = fit(Agent(updates, delays), [clock, trigger])
    assert clock.readings == made
    assert clock.batches == crossings(made, every)
    reached = [next(i for i, m in enumerate(made) if m >= at) for at in trigger.clock.at if made[-1] >= at]
    assert trigger.batches == sorted(set(reached))
    assert trainer.global_step == sum(made[-1] // delay for delay in delays)  # what it was mistaken for


@settings(max_examples=10)
@given(runs.filter(lambda run: 0 < run[3] < len(run[0])))
def test_a_resumed_run_counts_on(run):
    updates, delays, every, cut = run
    made = torch.tensor(updates).cumsum(0).tolist()
    with tempfile.TemporaryDirectory() as root:
        first, second = Acts(Clock(every, "update")), Acts(Clock(every, "update"))
        fit(Agent(updates, delays), [first, SaveAfter(cut, f"{root}/cut.ckpt")])
        fit(Agent(updates, delays), [second], ckpt_path=f"{root}/cut.ckpt")
    assert first.batches + second.batches == crossings(made, every)
    assert second.readings[-1] == made[-1]


def test_the_modules_own_number_goes_first():
    updates, frames = Acts(Clock(2, "update")), Acts(Clock(10, "frame"))
    module = Own([2, 2, 0, 4], [1, 1])
    assert isinstance(module, HasProgress)
    fit(module, [updates, frames])
    assert updates.readings == [1, 2, 2, 4]
    assert frames.readings == [8, 16, 16, 32]
    assert frames.batches == [1, 3]


def test_a_rested_optimiser_and_steps_past_lightning_count_too():
    class Bare(Agent):
        def optimizers(self):
            return super().optimizers(use_pl_optimizer=False)

    acts = Acts(Clock(1, "update"))
    trainer = fit(Bare([1, 0, 2], [1, 2]), [acts])
    assert acts.readings == [1, 1, 3]
    assert trainer.global_step == 0  # Lightning does not see these steps


def test_a_clock_that_serves_a_second_fit_begins_anew():
    acts = Acts(Clock(3, "update"))
    for _ in range(2):
        acts.batches.clear()
        fit(Agent([2, 2, 2], [1, 1]), [acts])
        assert acts.batches == [1, 2]


def test_a_callback_that_joins_a_resumed_run_divides_the_steps_before_it_evenly(tmp_path):
    fit(Agent([1, 2, 3], [1, 1, 1]), [SaveAfter(2, tmp_path / "cut.ckpt")])
    acts = Acts(Clock(100, "update"))
    fit(Agent([1, 2, 3], [1, 1, 1]), [acts], ckpt_path=tmp_path / "cut.ckpt")
    assert acts.readings == [6]  # (3 x 3 steps) / 3 + 3


@pytest.mark.parametrize(
    ("progress", "message"),
    [
        (lambda self: 3, "must return a mapping"),
        (lambda self: {"update": 1.5}, r"progress\(\)\['update'\] must be an integer of at least 0, got 1.5"),
        (lambda self: {"update": -1}, "must be an integer of at least 0, got -1"),
        (lambda self: {"update": True}, "must be an integer of at least 0, got True"),
    ],
)
def test_a_number_that_is_none_is_refused(progress, message):
    module = type("Odd", (Agent,), {"progress": progress})([1], [1])
    with pytest.raises(MisconfigurationException, match=message):
        fit(module, [Acts(Clock(1, "update"))])


def test_frames_of_a_module_that_counts_none_are_refused():
    with pytest.raises(MisconfigurationException, match=r"Agent.progress\(\) to return a dict with the key 'frame'"):
        fit(Agent([1], [1]), [Acts(Clock(1, "frame"))])


class Rule(LightningModule):
    """A local rule without optimiser."""

    updates = (1,)

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.w = nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        pass


def test_updates_without_anything_that_counts_them_are_refused():
    with pytest.raises(MisconfigurationException, match=r"needs an optimiser or Rule.progress\(\)"):
        fit(Rule(), [Acts(Trigger(every=1))])
    condition = Acts(Trigger(trigger="loss < 1"))  # asks for no unit
    fit(Rule(), [condition])
    assert condition.batches == []


def test_several_optimisers_need_a_started_clock():
    class Unstarted(Acts):
        def on_train_start(self, trainer, pl_module):
            pass

    with pytest.raises(MisconfigurationException, match=r"call the clock's .* start\(trainer, pl_module\)"):
        fit(Agent([1], [1, 1]), [Unstarted(Clock(1, "update"))])
    alone = Unstarted(Clock(1, "update"))
    fit(Agent([1, 2], [1]), [alone])
    assert alone.readings == [1, 3]
