"""The prediction object on a tiny reservoir: learning, foils, cache, resume at any trial, what is refused, what is undefined."""

from __future__ import annotations

import math
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.callbacks import ErrorModulation, PredictionMonitor
from plasticity_lightning.data.prediction_task import PredictionTaskDataModule
from plasticity_lightning.data.prediction_world import Cue, Phase
from plasticity_lightning.errors import UserError
from plasticity_lightning.measures.prediction_record import PredictionRecord
from plasticity_lightning.modules import PredictionObject
from plasticity_lightning.runtime import AtomicCheckpoint, RNGState
from plasticity_lightning.spiking.izhikevich_populations import NeuronSpread
from plasticity_lightning.spiking.reservoir import ReservoirOptions

RULES = ["three_factor", "lms", "force", "rls", "ridge"]


def task(lanes: int = 2, **changes) -> PredictionTaskDataModule:
    phases = [
        Phase([Cue([200.0], [1.0, 0.0]), Cue([300.0], [0.0, 1.0])], blocks=6),
        Phase([Cue([300.0], [1.0, 0.0]), Cue([300.0], [0.5, 0.5])], blocks=6),
    ]
    settings = {"lead_in_blocks": 2, "probe_every": 3, "window_ms": 500, "trial_ms": 600, "interval_ms": (50, 100)}
    return PredictionTaskDataModule(**{"phases": phases, "lanes": lanes, **settings, **changes})


def model(lanes: int = 2, n: int = 60, channels: int = 4, **changes) -> PredictionObject:
    return PredictionObject(ReservoirOptions(n_neurons=n, n_channels=channels), lanes=lanes, threads=1, **changes)


def trainer(tmp_path=None, batches: int | None = None, callbacks=(), **changes) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        limit_train_batches=batches,
        enable_checkpointing=any(isinstance(c, AtomicCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        **{"logger": False, **changes},
    )


def fitted(module: PredictionObject, data: PredictionTaskDataModule, **kwargs) -> PredictionObject:
    trainer(**kwargs).fit(module, data)
    return module


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_runs_the_same_protocol(rule):
    data = task()
    run = trainer()
    module = model(rule=rule)
    run.fit(module, data)
    assert len(module.record) == data.n_trials == 28
    assert run.global_step == data.n_trials - 4  # one counted step a trial after the lead-in
    assert bool(module.readout_weight.isfinite().all())
    assert bool(module.readout_weight.abs().sum((1, 2)).gt(0).all())
    assert {len(value) for value in module.scores(data.truth()).values()} == {2}


def test_probes_and_lead_in_change_no_weight():
    data, module = task(), model()
    module.trainer = trainer()  # for hooks that ask for it
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, _, pl_module, batch, i):
            self.before = pl_module.readout_weight.clone()

        def on_train_batch_end(self, _, pl_module, outputs, batch, i):
            still = torch.equal(self.before, pl_module.readout_weight)
            seen.append((batch["lead_in"] or bool(batch["probe"].all()), still))

    fitted(module, data, callbacks=[Watch()])
    assert all(still for quiet, still in seen if quiet)
    assert not any(still for quiet, still in seen if not quiet)


def test_a_lane_does_not_depend_on_the_others():
    both = fitted(model(lanes=2), task(lanes=2))
    alone = fitted(model(lanes=1, seed=1), task(lanes=1, seed=1))
    assert torch.allclose(both.readout_weight[1], alone.readout_weight[0], atol=1e-6)
    assert torch.equal(both.state_v[1], alone.state_v[0])


def test_ridge_is_what_force_computes_recursively():
    """Supervised by the same samples with alpha as penalty and lambda = 1, both are the ridge solution on everything so far."""
    force, ridge = (fitted(model(rule=rule), task()) for rule in ("force", "ridge"))
    assert torch.allclose(force.readout_weight, ridge.readout_weight, atol=1e-8)


def test_a_cache_changes_no_result_and_is_shared_by_rules(tmp_path):
    plain = fitted(model(), task())
    filling = fitted(model(cache_dir=str(tmp_path)), task())
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 2 * 28  # one a trial and lane; probes beside the protocol are not kept
    changed = {f: f.stat().st_mtime_ns for f in files}
    cached = fitted(model(cache_dir=str(tmp_path)), task())
    foil = fitted(model(rule="lms", cache_dir=str(tmp_path)), task())
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.npz")} == changed  # nothing simulated twice
    for other in (filling, cached):
        assert torch.equal(other.readout_weight, plain.readout_weight)
        assert torch.equal(other.state_v, plain.state_v)
    assert not torch.equal(foil.readout_weight, plain.readout_weight)
    other_seed = fitted(model(seed=5, cache_dir=str(tmp_path)), task(), batches=1)
    assert len(list(tmp_path.rglob("*.npz"))) == 2 * 28 + 2
    assert len(other_seed.record) == 1


def test_half_a_cache_is_completed(tmp_path):
    fitted(model(cache_dir=str(tmp_path)), task(), batches=9)
    rest = fitted(model(cache_dir=str(tmp_path)), task())
    assert torch.equal(rest.readout_weight, fitted(model(), task()).readout_weight)
    damaged = next(tmp_path.rglob("*.npz"))
    damaged.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="delete it"):
        fitted(model(cache_dir=str(tmp_path)), task())


def assert_resumed_equal(rule: str, stop: int, folder: Path, *drawing: pl.Callback) -> None:
    """A run that is killed one trial after the checkpoint of trial `stop`, and resumed, equals one that was not."""
    arguments = {"offline": "replay", "surprise": "signed"} if rule == "three_factor" else {}
    gate = [ErrorModulation(off=[(8, 10)], final_gain=0.5, end=20)] if rule in ("three_factor", "lms") else []

    class Killed(Exception):
        pass

    class Kill(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.fit_loop.total_batch_idx == stop:
                raise Killed

    def run(name: str, *more: pl.Callback, resume: Path | None = None) -> PredictionObject:
        module = model(rule=rule, rule_arguments=arguments)
        saver = AtomicCheckpoint(str(folder / name), every_n_batches=stop)
        logger = TensorBoardLogger(folder / name, name="", version="run") if drawing else False
        trainer(folder, callbacks=[*gate, *drawing, RNGState(), *more, saver], logger=logger).fit(
            module, task(), ckpt_path=resume, weights_only=True if resume else None
        )
        return module

    whole = run("whole")
    with pytest.raises(Killed):
        run("part", Kill())
    again = run("again", resume=folder / "part" / "last.ckpt")
    assert torch.equal(again.readout_weight, whole.readout_weight)
    for (name, a), (_, b) in zip(again.named_buffers(), whole.named_buffers(), strict=True):
        assert torch.equal(a, b), name
    first, second = again.record.state_dict(), whole.record.state_dict()
    assert all(
        torch.equal(first["trials"][n].nan_to_num(-9), second["trials"][n].nan_to_num(-9)) for n in second["trials"]
    )
    assert torch.equal(first["signals"], second["signals"])
    a, b = (m.scores(task().truth()) for m in (again, whole))
    assert all(torch.equal(a[name].nan_to_num(-9), b[name].nan_to_num(-9)) for name in b)
    for path in (folder / "whole").rglob("*.png"):
        assert path.read_bytes() == (folder / "again" / "run" / "figures" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("rule", "stop"), [("three_factor", 1), ("three_factor", 7), ("rls", 13), ("ridge", 20), ("lms", 26)]
)
def test_resumed_everything_is_equal(rule, stop, tmp_path):
    assert_resumed_equal(rule, stop, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["three_factor", "rls"])
def test_resumed_at_any_trial_everything_is_equal(rule, tmp_path):
    for stop in range(1, 27):
        assert_resumed_equal(rule, stop, tmp_path / str(stop), PredictionMonitor())
        assert len(list((tmp_path / str(stop) / "whole").rglob("*.png"))) >= 4


def test_what_an_outcome_evokes_is_no_prediction_of_it():
    record = PredictionRecord(1, 1, False)
    time = torch.arange(0.0, 1000.0, 5.0)
    batch = {"phase": 0, "lane": torch.tensor([0]), "cue": torch.tensor([0]), "outcome": torch.tensor([0]),
             "onset_ms": torch.tensor([300.0]), "probe": torch.tensor([False]), "latencies_ms": torch.tensor([[300.0]])}  # fmt: skip
    anticipating = torch.exp(-((time - 280) ** 2) / 800)
    evoked = 5 * torch.exp(-((time - 360) ** 2) / 800)
    evoked[time <= 300] = 0
    for signal, peak in ((anticipating + evoked, 280.0), (evoked, math.nan)):
        record.add(batch, torch.stack([signal, signal], -1)[None], time)
        assert record.trials_line(-1)["peak_ms"].item() == pytest.approx(peak, nan_ok=True)
    probe = batch | {"onset_ms": torch.tensor([-1.0]), "outcome": torch.tensor([-1]), "probe": torch.tensor([True])}
    record.add(probe, torch.stack([evoked, evoked], -1)[None], time)
    assert record.trials_line(-1)["peak_ms"].item() == 360.0


def test_reset_phases_forget_the_history_at_the_switch():
    plain, reset = fitted(model(rule="force"), task()), fitted(model(rule="force", reset_phases=[1]), task())
    assert not torch.equal(plain.readout_weight, reset.readout_weight)
    first = fitted(model(rule="force"), task(), batches=16)
    again = fitted(model(rule="force", reset_phases=[1]), task(), batches=16)  # the lead-in and phase 0
    assert torch.equal(first.readout_weight, again.readout_weight)


def test_the_bank_of_latencies_sums_to_the_readout_of_time():
    module = fitted(model(rule_arguments={"bank_ms": [200.0, 300.0]}), task())
    when, bank = module.readout_weight[:, 0], module.readout_weight[:, 3:]
    assert torch.allclose(bank.sum(1), when, atol=1e-5)
    assert bool(bank.abs().sum(2).gt(0).all())


def test_gates_and_ablations_reach_the_rule():
    base = fitted(model(), task(), callbacks=[ErrorModulation()])
    assert torch.equal(
        base.readout_weight, fitted(model(), task()).readout_weight
    )  # the callback's defaults are the rule's
    for changed in ({"gate": "around_outcome"}, {"gate": "always"}, {"error": "positive"}, {"gain": 0.5}):
        other = fitted(model(), task(), callbacks=[ErrorModulation(**changed)])
        assert not torch.equal(other.readout_weight[:, 0], base.readout_weight[:, 0]), changed
    off = fitted(model(), task(), callbacks=[ErrorModulation(off=[(0, 999)])])
    assert torch.equal(off.readout_weight, torch.zeros_like(off.readout_weight))
    online_only = fitted(model(), task(), callbacks=[ErrorModulation(offline_gain=0.0)])
    assert torch.equal(online_only.readout_weight[:, 0], base.readout_weight[:, 0])
    assert not bool(online_only.readout_weight[:, 1:].any())


@pytest.mark.parametrize("phases", [
    [Phase([Cue([200.0], [1.0])], blocks=6)],  # one outcome only, probability 1
    [Phase([Cue([200.0], [0.0, 1.0])], blocks=6)],  # probability 0
    [Phase([Cue([200.0], [0.5, 0.5], event=0.0)], blocks=6)],  # nothing ever comes
])  # fmt: skip
@pytest.mark.parametrize("rule", RULES)
def test_extreme_worlds_give_finite_weights_and_defined_scores(rule, phases):
    data = task(1, phases=phases, urn=10)
    module = fitted(model(1, channels=data.n_channels, n_outcomes=data.n_outcomes, rule=rule), data)
    assert bool(module.readout_weight.isfinite().all())
    values = module.scores(data.truth())
    assert all(bool(values[name].isnan().all()) for name in ("r_worst", "trials_to_timing", "trials_to_probability", "ghost")
               if name != "r_worst" or data.n_outcomes == 1)  # fmt: skip


def test_without_probes_the_probe_scores_are_undefined():
    data = task(probe_every=0)
    values = fitted(model(), data).scores(data.truth())
    assert all(bool(values[name].isnan().all()) for name in ("timing_error_ms", "r", "slope", "off_time"))
    assert bool((values["trials_to_timing"] >= 5).all())  # adaptation is read from learning trials


def test_a_silent_reservoir_is_an_error_that_names_the_lane():
    quiet = NeuronSpread(bias_excitatory=(-20.0, -20.0), bias_inhibitory=(-20.0, -20.0))
    options = ReservoirOptions(n_neurons=20, n_channels=4, stimulus=0.0, noise=0.0, spread=quiet)
    with pytest.raises(UserError, match=r"lanes \[0\].*bias_excitatory"):
        fitted(PredictionObject(options, threads=1), task(1))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: model(rule="force_"), "did you mean 'force'"),
        (lambda: model(rule_arguments={"etta": 1}), "did you mean 'eta'"),
        (lambda: model(rule_arguments={"eta": 2.5}), "eta=2.5"),
        (lambda: model(rule="force", rule_arguments={"forgetting": 0.9}), "rule 'rls'"),
        (lambda: model(rule="ridge", rule_arguments={"every_trials": 0}), "every_trials"),
        (lambda: model(rule_arguments={"offline": "later"}), "offline"),
        (lambda: model(rule_arguments={"surprise": "much"}), "surprise"),
        (lambda: model(lanes=0), "lanes"),
        (lambda: PredictionObject(threads=0), "threads"),
        (lambda: model(deviation_floor=0.0), "floor"),
    ],
)
def test_bad_arguments_are_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_data_that_do_not_fit_are_refused_before_training():
    with pytest.raises(MisconfigurationException, match="n_channels"):
        fitted(model(channels=5), task())
    with pytest.raises(MisconfigurationException, match="lanes=2"):
        fitted(model(lanes=1), task(lanes=2))
    with pytest.raises(MisconfigurationException, match="lead_in"):
        fitted(model(), task(lead_in_blocks=0))
    running = fitted(model(homeostasis_tau=10.0), task(lead_in_blocks=0))
    assert bool(running.readout_weight.isfinite().all())
    with pytest.raises(MisconfigurationException, match="remove the callback"):
        fitted(model(rule="force"), task(), callbacks=[ErrorModulation()])


def test_testing_scores_the_record(tmp_path):
    data, module = task(), model()
    run = trainer()
    run.fit(module, data)
    values = run.test(module, datamodule=data, verbose=False)[0]
    assert values["test/timing_error_ms"] == pytest.approx(
        module.scores(data.truth())["timing_error_ms"].nanmean().item()
    )
    with pytest.raises(UserError, match="recorded nothing"):
        trainer().test(model(), datamodule=data, verbose=False)


def test_probes_beside_the_protocol_are_scored_and_move_nothing(tmp_path):
    """Validation in every tenth trial changes nothing but its own log, and shows the world of its trial."""
    plain, seen = fitted(model(), task()), []

    class Watch(pl.Callback):
        def on_validation_epoch_end(self, trainer, module):
            seen.append((trainer.fit_loop.total_batch_idx, module._world, len(module._probes)))

    data, module = task(probe_blocks=3), model()
    run = trainer(callbacks=[Watch()], val_check_interval=10)
    run.fit(module, data)
    assert seen == [(-1, 0, 0), (9, 0, 6), (19, 1, 6)]  # the sanity check; 2 cues; phase 1 begins with trial 16
    assert torch.equal(module.readout_weight, plain.readout_weight)
    for (name, a), (_, b) in zip(module.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(a, b), name
    assert len(module.record) == 28
    values = run.validate(module, datamodule=data, verbose=False)[0]
    assert set(values) == {
        f"val/{n}" for n in ("timing_error_ms", "anticipation_ms", "r", "slope", "intercept", "off_time")
    }
    assert 0 <= values["val/timing_error_ms"] < 400
    again = run.validate(module, datamodule=data, verbose=False)[0]
    assert again == pytest.approx(values, nan_ok=True)
    predictions = run.predict(module, datamodule=data)
    assert len(predictions) == 6
    one = predictions[0]
    assert one["when"].shape == (2, 140)  # 100 + 600 ms in samples of 5 ms
    assert one["prediction"].shape == (2, 2, 140)
    assert bool((one["prediction"] >= 0).all())
    assert float(one["time_ms"][0]) == -95.0
    errors = [  # every cue announces 300 ms in phase 1
        (float(p["time_ms"][(p["when"][lane] * (p["time_ms"] >= 80)).argmax()]) - 300.0)
        for p in predictions
        for lane in (0, 1)
    ]
    assert sum(map(abs, errors)) / 12 == pytest.approx(values["val/timing_error_ms"], abs=1e-3)


def test_a_checkpoint_is_validated_in_the_world_that_it_was_written_in(tmp_path):
    data = task()
    saver = AtomicCheckpoint(str(tmp_path), every_n_batches=12)  # phase 0 lasts from trial 4 to 15
    trainer(callbacks=[saver], batches=12).fit(model(), data)
    shown = []

    class Watch(pl.Callback):
        def on_validation_batch_end(self, _, module, outputs, batch, *rest):
            shown.append((batch["phase"], bool(batch["probe"].all())))

    fresh = task()
    assert fresh.present_phase == 1
    path = str(tmp_path / "last.ckpt")
    trainer(callbacks=[Watch()]).validate(model(), datamodule=fresh, ckpt_path=path, verbose=False, weights_only=True)
    assert shown == [(0, True)] * 16


@pytest.mark.parametrize("verb", ["validate", "predict"])
def test_a_module_that_has_learned_nothing_says_so(verb):
    with pytest.raises(UserError, match="learned nothing: fit it, or give --ckpt_path"):
        getattr(trainer(), verb)(model(), datamodule=task())
