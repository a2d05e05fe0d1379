"""The prediction object on a tiny reservoir: learning, foils, cache, resume at any trial, what is refused, what is undefined."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.callbacks import ErrorModulation
from plasticity_lightning.data.prediction_task import Cue, Phase, PredictionTaskDataModule
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
        logger=False,
        enable_checkpointing=any(isinstance(c, AtomicCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        **changes,
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
    assert len(files) == 2 * 28  # one a trial and lane
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


@pytest.mark.parametrize(
    ("rule", "stop"), [("three_factor", 1), ("three_factor", 7), ("rls", 13), ("ridge", 20), ("lms", 27)]
)
def test_resumed_at_any_trial_everything_is_equal(rule, stop, tmp_path):
    arguments = {"offline": "replay", "surprise": "signed"} if rule == "three_factor" else {}
    gate = [ErrorModulation(off=[(8, 10)], final_gain=0.5, end=20)] if rule in ("three_factor", "lms") else []

    def run(folder, batches=None, resume=None):
        module = model(rule=rule, rule_arguments=arguments)
        saver = AtomicCheckpoint(str(folder), every_n_batches=stop)
        trainer(tmp_path, callbacks=[*gate, RNGState(), saver], max_steps=-1, batches=batches).fit(
            module, task(), ckpt_path=resume, weights_only=True if resume else None
        )
        return module

    whole = run(tmp_path / "whole")

    class Killed(Exception):
        pass

    class Kill(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.fit_loop.total_batch_idx + 1 == stop + 1:  # one trial after the checkpoint
                raise Killed

    module = model(rule=rule, rule_arguments=arguments)
    part = tmp_path / "part"
    with pytest.raises(Killed):
        trainer(tmp_path, callbacks=[*gate, RNGState(), Kill(), AtomicCheckpoint(str(part), every_n_batches=stop)]).fit(
            module, task()
        )
    again = run(tmp_path / "again", resume=str(part / "last.ckpt"))
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


def test_validation_and_prediction_try_each_cue_alone_and_move_nothing():
    data, module = task(), model()
    run = trainer(callbacks=[ErrorModulation()])
    run.fit(module, data)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    timing = float(run.callback_metrics["val/timing_error_ms"])
    assert timing == run.validate(module, data, verbose=False)[0]["val/timing_error_ms"]
    tried = run.predict(module, data)
    assert [batch["cue"].tolist() for batch in tried] == [[0, 0], [1, 1]]
    assert tried[0]["z"].shape == (2, 140, 3)  # from 100 ms before the cue to 600 after it
    assert tried[0]["time_ms"][[0, -1]].tolist() == [-95, 600]
    # P_k(t) = [z_when]+ [z_k]+, and the peak of z_when is what the timing error is of: all latencies are 300 ms
    z = tried[0]["z"].clamp(min=0)
    assert torch.equal(tried[0]["prediction"], (z[..., :1] * z[..., 1:]).transpose(1, 2))
    late = tried[0]["time_ms"] >= 80
    peaks = torch.stack([batch["time_ms"][late][batch["z"][:, late, 0].argmax(1)] for batch in tried])
    assert timing == pytest.approx(float((peaks - 300).abs().mean()))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert len(module.record) == data.n_trials
    with pytest.raises(UserError, match="no lead-in trial"):
        trainer().validate(model(), data, verbose=False)


def test_testing_scores_the_record(tmp_path):
    data, module = task(), model()
    run = trainer()
    run.fit(module, data)
    values = run.test(module, datamodule=data, verbose=False)[0]
    assert values["test/timing_error_ms"] == pytest.approx(
        module.scores(data.truth())["timing_error_ms"].nanmean().item()
    )
    with pytest.raises(MisconfigurationException, match="recorded nothing"):
        trainer().test(model(), datamodule=data, verbose=False)
