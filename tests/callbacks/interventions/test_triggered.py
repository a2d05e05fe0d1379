"""What all triggered interventions share: the moment of acting, the record of events, bitwise resume."""

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from plasticity_lightning.callbacks import ContinualBackprop, L2Init, ReDo, Reset, ShrinkAndPerturb, SoftReset
from plasticity_lightning.callbacks.interventions.triggered import TriggeredIntervention

from .toys import Regression, data, fit, weights

CASES = {
    "reset": lambda: Reset("head", every=3),
    "reset_all": lambda: Reset(every=1, unit="epoch"),
    "shrink": lambda: ShrinkAndPerturb(heads=["head"], every=3),
    "noise": lambda: ShrinkAndPerturb(noise_std=0.01, at=[2, 5]),
    "redo": lambda: ReDo(tau=0.7, every=3),
    "redo_by_measure": lambda: ReDo(tau=0.7, trigger="train/loss > 0.2", refractory=3),
}


class Recorder(TriggeredIntervention):
    name = "recorder"

    def __init__(self, **when):
        super().__init__(**when)
        self.acted = []

    def act(self, trainer, pl_module):
        self.acted.append((trainer.fit_loop.total_batch_idx + 1, trainer.global_step))
        return {"things": 2.0}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cut", [3, 5])
def test_a_resumed_run_ends_with_bitwise_the_same_weights(case, cut, tmp_path):
    def callbacks():
        return [CASES[case]()]

    whole = Regression(batch_norm=True)
    intervention = callbacks()
    fit(whole, intervention, steps=10)
    assert intervention[0].events >= 1
    plain = Regression(batch_norm=True)
    fit(plain, [], steps=10)
    assert any(not torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(plain).values(), strict=True))

    fit(Regression(batch_norm=True), callbacks(), steps=10, root=tmp_path, save=cut)
    resumed = Regression(seed=99, batch_norm=True)
    again = callbacks()
    trainer = fit(resumed, again, steps=10, root=tmp_path, ckpt=tmp_path / f"step={cut}.ckpt")
    assert trainer.global_step == 10
    assert again[0].events == intervention[0].events
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


def test_events_are_recorded_though_they_fall_between_logging_steps(tmp_path):
    loggers = [CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="tb")]
    trainer = fit(Regression(), [Recorder(every=3)], steps=8, logger=loggers, log_every_n_steps=100)
    assert trainer.callback_metrics["intervention/recorder/things"] == 2.0
    assert trainer.callback_metrics["intervention/recorder/events"] == 2.0
    rows = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    assert rows[0].split(",") == ["intervention/recorder/events", "intervention/recorder/things", "step"]
    assert rows[1:] == ["1.0,2.0,3", "2.0,2.0,6"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(loggers[1].log_dir)
    log.Reload()
    assert [e.step for e in log.Scalars("intervention/recorder/things")] == [3, 6]
    text = log.Tensors("intervention/recorder/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "recorder (every 3 updates: 3): things 2, events 1"


def test_with_accumulated_gradients_it_acts_between_optimiser_steps_only():
    callback = Recorder(every=1, unit="batch")
    fit(Regression(), [callback], steps=3, accumulate_grad_batches=3)
    # an epoch of 8 batches ends with a step, whatever has been accumulated
    assert callback.acted == [(3, 1), (6, 2), (8, 3)]


def test_epochs_are_counted_at_their_end():
    callback = Recorder(every=1, unit="epoch")
    fit(Regression(), [callback], steps=20, max_epochs=2)
    assert callback.acted == [(8, 8), (16, 16)]


class Manual(LightningModule):
    """Two optimisers, three updates a batch, by hand."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.a, self.b = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        first, second = self.optimizers()
        for net, optimizer in ((self.a, first), (self.a, first), (self.b, second)):
            optimizer.zero_grad()
            self.manual_backward((net(x) - y).square().mean())
            optimizer.step()

    def configure_optimizers(self):
        return torch.optim.Adam(self.a.parameters(), 1e-2), torch.optim.SGD(self.b.parameters(), 1e-2, momentum=0.9)


def test_manual_optimisation_with_several_optimisers():
    callback = Recorder(every=5)
    fit(Manual(), [callback, Reset("a", at=[6])], steps=24)
    # three steps a batch, of which the first optimiser makes two: updates 5, 10, 15 are crossed in batches 3, 5, 8
    assert callback.acted == [(3, 9), (5, 15), (8, 24)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Reset("head", every=4),
        lambda: ReDo(tau=0.9, every=2),
        lambda: ContinualBackprop(rate=0.2, maturity=1),
        lambda: L2Init(0.5),
        lambda: L2Init(0.5, decoupled=True),
        lambda: SoftReset(),
        lambda: ReDo(tau=0.9, trigger="train/loss > 0.01", refractory=3),
    ],
)
def test_a_callback_that_serves_a_second_fit_begins_anew(make):
    """Of another module, here: neither its count nor its first weights, units and utilities are those of the first."""
    callback, watched = Recorder(every=3), make()
    fit(Regression(seed=5), [callback, watched], steps=7)
    ends = []
    for second in (watched, make()):
        callback.acted.clear()
        module = Regression()
        fit(module, [callback, second], steps=7)
        assert callback.acted == [(3, 3), (6, 6)]
        assert callback.events == 2
        ends.append(weights(module))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_steps_past_lightnings_wrapper_are_steps():
    class Bare(Manual):
        def optimizers(self, use_pl_optimizer=True):
            return super().optimizers(use_pl_optimizer=False)

    callback, backprop = Recorder(every=5), ContinualBackprop(rate=0.2, maturity=1)
    fit(Bare(), [callback, backprop], max_epochs=1, steps=-1)
    assert [batch for batch, _ in callback.acted] == [3, 5, 8]
    assert backprop.replaced > 0


def test_one_callback_object_serves_two_fits_of_one_trainer():
    callback = Recorder(every=3)
    module = Regression()
    trainer = fit(module, [callback], steps=4)
    trainer.fit_loop.epoch_loop.max_steps = 8
    trainer.fit(module, data())
    assert callback.acted == [(3, 3), (6, 6)]


def test_two_of_a_kind_keep_their_own_state():
    assert Reset("a", every=1).state_key != Reset("b", every=1).state_key
    assert ReDo(tau=0.1).state_key != ReDo(tau=0.2).state_key


def test_split_parameters_are_refused():
    class Sharded:
        strategy = object()

    with pytest.raises(MisconfigurationException, match=r"Recorder edits whole parameters.*object"):
        Recorder(every=1).setup(Sharded(), Regression(), "fit")


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed=-1 must not be negative"):
        Recorder(every=1, seed=-1)
