"""Interventions that act at every step or once at the start: continual backprop, Parseval, soft reset, transforms, UPGD."""

import pytest
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from plasticity_lightning.callbacks import ContinualBackprop, L2Init, ModuleTransform, Parseval, SoftReset
from plasticity_lightning.interventions import UPGD
from plasticity_lightning.interventions.module_transform import CReLU, LayerNormed
from plasticity_lightning.interventions.parseval import parseval_penalty

from .toys import Regression, fit, weights


class WithUPGD(Regression):
    def configure_optimizers(self):
        return UPGD(self.parameters(), lr=0.1, sigma=0.01)


CASES = {
    "continual_backprop": (Regression, lambda: [ContinualBackprop(rate=0.1, maturity=2)]),
    "parseval": (Regression, lambda: [Parseval(0.1)]),
    "soft_reset": (Regression, lambda: [SoftReset(rate=1.0)]),
    "crelu": (Regression, lambda: [ModuleTransform("crelu", "*")]),
    "layer_norm": (Regression, lambda: [ModuleTransform("layer_norm", "body.*")]),
    "spectral_norm": (Regression, lambda: [ModuleTransform("spectral_norm", "body.*")]),
    "upgd": (WithUPGD, lambda: []),
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_ends_with_bitwise_the_same_weights(case, tmp_path):
    module, callbacks = CASES[case]
    whole, resumed = module(), module(seed=99)
    fit(whole, callbacks(), steps=10)
    fit(module(), callbacks(), steps=10, root=tmp_path, save=5)
    fit(resumed, callbacks(), steps=10, root=tmp_path, ckpt=tmp_path / "step=5.ckpt")
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    plain = Regression()
    fit(plain, [], steps=10)
    assert not torch.equal(whole(torch.ones(1, 3)), plain(torch.ones(1, 3)))


def test_continual_backprop_replaces_units_at_its_rate_and_forgets_their_moments():
    module, callback = Regression(), ContinualBackprop(rate=0.25, maturity=0, modules="body.0")
    trainer = fit(module, [callback], steps=2)
    # of 8 mature units 2 are replaced in the first step, of the 8 that are over 0 steps old 2 in the second
    assert callback.replaced == 4
    assert trainer.callback_metrics["intervention/continual_backprop/units"] == 4.0
    last = [i for i, age in enumerate(callback._utilities["body.0"].age.tolist()) if age == 0]
    assert len(last) == 2
    assert not module.body[4].weight[:, last].any()
    state = trainer.optimizers[0].state
    assert not state[module.body[0].weight]["exp_avg"][last].any()
    assert not state[module.body[4].weight]["exp_avg"][:, last].any()
    kept = [i for i in range(8) if i not in last]
    assert state[module.body[0].weight]["exp_avg_sq"][kept].any(1).sum() >= 4
    assert _get_current_function_mode_stack() == []


def test_continual_backprop_waits_for_the_optimiser_step():
    callback = ContinualBackprop(rate=0.125, maturity=0, modules="body.0")
    fit(Regression(), [callback], steps=2, accumulate_grad_batches=4)
    assert callback.replaced == 2
    assert callback._utilities["body.0"].steps == 2


def test_parseval_is_the_penalty_in_the_loss():
    class WithPenalty(Regression):
        def training_step(self, batch, batch_idx):
            penalty = parseval_penalty(self.body[0].weight) + parseval_penalty(self.body[4].weight)
            return super().training_step(batch, batch_idx) + 0.5 * penalty

    expected, module = WithPenalty(), Regression()
    fit(expected, [])
    trainer = fit(module, [Parseval(0.5, modules="body.*")])
    for name, value in weights(expected).items():
        torch.testing.assert_close(weights(module)[name], value, atol=1e-5, rtol=1e-4, msg=name)
    logged = trainer.callback_metrics["intervention/parseval/penalty"]
    mine = 0.5 * (parseval_penalty(module.body[0].weight) + parseval_penalty(module.body[4].weight))
    torch.testing.assert_close(logged, mine.detach())


def test_soft_reset_drifts_and_without_rate_does_nothing():
    plain, still, drifting = Regression(), Regression(), Regression()
    start = weights(plain)
    fit(plain, [])
    fit(still, [SoftReset(rate=0.0)])
    trainer = fit(drifting, [SoftReset(rate=100.0, lowest=0.0)])
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(still)[name], value)
    assert 0 <= trainer.callback_metrics["intervention/soft_reset/drift"] <= 1
    moved = [sum((weights(m)[n] - v).norm() for n, v in start.items()) for m in (plain, drifting)]
    assert moved[1] < moved[0]


def test_transforms_are_seen_by_the_optimiser_and_applied_once():
    module = Regression(batch_norm=True)
    callback = ModuleTransform("crelu", "*")
    trainer = fit(module, [callback], steps=2)
    assert [type(module.body[i]) for i in (2, 5)] == [CReLU, CReLU]
    assert module.body[0].weight.shape == (4, 3)
    assert module.body[1].weight.shape == (4,)
    owned = {id(p) for g in trainer.optimizers[0].param_groups for p in g["params"]}
    assert owned == {id(p) for p in module.parameters()}
    before = list(weights(module))
    callback.setup(trainer, module, "test")
    assert list(weights(module)) == before

    module = Regression()
    normed = ModuleTransform("layer_norm", ["body.0", "body.4"])
    trainer = fit(module, [normed], steps=2)
    normed.setup(trainer, module, "test")
    assert isinstance(module.body[0], LayerNormed)
    assert not isinstance(module.body[0][0], LayerNormed)

    module = Regression()
    fit(module, [ModuleTransform("spectral_norm", "body.4")], steps=20)
    module.eval()
    assert torch.linalg.matrix_norm(module.body[4].weight, 2).item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ContinualBackprop(rate=2), ValueError, r"rate=2 must be in \[0, 1\]"),
        (lambda: ContinualBackprop(maturity=-1), ValueError, "maturity=-1 must not be negative"),
        (lambda: ContinualBackprop(decay=1), ValueError, r"decay=1 must be in \[0, 1\)"),
        (lambda: ContinualBackprop(moments="no"), ValueError, "moments='no' must be one of"),
        (lambda: Parseval(-1), ValueError, "strength=-1"),
        (lambda: Parseval(scale=0), ValueError, "scale=0 must be positive"),
        (lambda: SoftReset(-1), ValueError, "rate=-1"),
        (lambda: SoftReset(lowest=2), ValueError, "lowest=2"),
        (lambda: ModuleTransform("prelu", "*"), ValueError, "kind='prelu' must be one of crelu, layer_norm"),
        (lambda: Parseval(modules="hed"), MisconfigurationException, "modules='hed' matches no layer.*'head'"),
        (lambda: SoftReset(parameters="hed"), MisconfigurationException, "SoftReset: parameters=.'hed'. matches no"),
        (lambda: ModuleTransform("crelu", "head"), MisconfigurationException, "matches nothing to which crelu applies"),
    ],
)
def test_mistakes_are_told(make, error, message):
    with pytest.raises(error, match=message):
        fit(Regression(), [make()], steps=1)


def test_a_relu_outside_a_sequential_is_refused():
    class Loose(Regression):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

    with pytest.raises(MisconfigurationException, match=r"crelu of 'act': the ReLU must stand in a nn\.Sequential"):
        fit(Loose(), [ModuleTransform("crelu", "act")], steps=1)


LOGGING = {
    "continual_backprop/units": lambda: ContinualBackprop(),
    "l2_init/penalty": lambda: L2Init(0.1),
    "parseval/penalty": lambda: Parseval(0.1),
    "soft_reset/drift": lambda: SoftReset(),
}


class Steps(Logger):
    """The step numbers at which something was logged."""

    name, version, experiment = "steps", 0, None

    def __init__(self):
        self.steps = []

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.steps += [step for key in metrics if key.startswith("intervention/")]


@pytest.mark.parametrize("key", LOGGING)
def test_logging_counts_batches_over_all_epochs(key):
    steps = Steps()
    # an epoch has 8 batches: 12 and 24 lie in the second and at the end of the third
    trainer = fit(Regression(), [LOGGING[key]()], steps=25, logger=steps, log_every_n_steps=12)
    assert steps.steps == [11, 23]
    assert f"intervention/{key}" in trainer.callback_metrics


def test_nothing_is_logged_where_the_trainer_logs_nothing():
    trainer = fit(Regression(), [LOGGING[key]() for key in LOGGING], steps=2, log_every_n_steps=0)
    assert not [key for key in trainer.callback_metrics if key.startswith("intervention/")]
