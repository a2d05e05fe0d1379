"""Reset and shrink-and-perturb touch what was chosen, with its moments, and nothing else."""

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.callbacks import Reset, ShrinkAndPerturb
from plasticity_lightning.interventions.initialise import derive_seed, fresh_layer

from .toys import Regression, fit, weights


def after_last_step(callback, steps=4, **kwargs):
    """Module and optimiser right after an event at the last step, and the weights of a run without it."""
    plain, module = Regression(**kwargs), Regression(**kwargs)
    fit(plain, [], steps=steps)
    trainer = fit(module, [callback], steps=steps)
    return module, trainer.optimizers[0], weights(plain)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"last": 1}, {"head"}),
        ({"modules": "body", "last": 1}, {"body.4"}),
        ({"modules": ["body.0", "head"]}, {"body.0", "head"}),
        ({}, {"body.0", "body.1", "body.4", "head"}),
    ],
)
def test_the_chosen_layers_are_new_and_all_others_bitwise_old(arguments, expected):
    module, optimizer, old = after_last_step(Reset(at=[4], seed=7, **arguments), batch_norm=True)
    fresh = {
        f"{name}.{key}": value
        for name in expected
        for key, value in fresh_layer(module.get_submodule(name), derive_seed(7, 0, name)).state_dict().items()
    }
    for name, value in weights(module).items():
        assert torch.equal(value, fresh[name] if name in fresh else old[name]), name
    for name, parameter in module.named_parameters():
        state = optimizer.state[parameter]
        assert state["exp_avg"].any() == (name not in fresh), name
        assert (state["step"] == 0) == (name in fresh), name


def test_moments_are_kept_on_request():
    module, optimizer, _ = after_last_step(Reset(last=1, at=[4], moments="keep"))
    assert optimizer.state[module.head.weight]["exp_avg"].any()
    assert optimizer.state[module.head.weight]["step"] == 4


def test_each_event_draws_anew():
    module = Regression()
    first = Reset(last=1, at=[2])
    fit(module, [first], steps=2)
    again = Regression()
    fit(again, [Reset(last=1, at=[1, 2])], steps=2)
    assert not torch.equal(module.head.weight, again.head.weight)


def test_a_frozen_layer_is_not_reset():
    module = Regression()
    module.body[0].requires_grad_(False)
    old = weights(module)
    fit(module, [Reset(at=[4])], steps=4)
    assert torch.equal(module.body[0].weight, old["body.0.weight"])


def test_shrink_and_perturb_by_hand_with_a_reset_head():
    module, optimizer, old = after_last_step(ShrinkAndPerturb(0.8, heads=["head"], at=[4], seed=7))
    for name, alpha in (("body.0", 0.8), ("body.4", 0.8), ("head", 0.0)):
        new = fresh_layer(module.get_submodule(name), derive_seed(7, 0, name)).weight
        torch.testing.assert_close(weights(module)[f"{name}.weight"], alpha * old[f"{name}.weight"] + (1 - alpha) * new)
        assert not optimizer.state[module.get_submodule(name).weight]["exp_avg"].any()


def test_shrink_and_add_noise():
    module, _, old = after_last_step(ShrinkAndPerturb(0.5, noise_std=0.0, modules="body", at=[4], moments="keep"))
    torch.testing.assert_close(module.body[0].weight, 0.5 * old["body.0.weight"])
    assert torch.equal(module.head.weight, old["head.weight"])


@pytest.mark.parametrize(("rate", "alpha"), [(0.0, 0.9), (1e9, 0.3), (2.0, None)])
def test_the_share_that_stays_by_a_measure(rate, alpha):
    # DrM: 1 - rate * measure, held within [0.3, 0.9]; the measure here is the loss
    callback = ShrinkAndPerturb(0.9, at=[4], seed=7, alpha_by="train/loss", alpha_rate=rate, alpha_min=0.3)
    trainer = fit(Regression(), [callback], steps=4)
    expected = min(max(1 - rate * float(trainer.callback_metrics["train/loss"]), 0.3), 0.9) if alpha is None else alpha
    assert float(trainer.callback_metrics["intervention/shrink_and_perturb/alpha"]) == pytest.approx(expected)
    with pytest.raises(ValueError, match="alpha_min=1 be in"):
        ShrinkAndPerturb(0.9, every=1, alpha_by="train/loss", alpha_min=1)


def test_an_event_by_measure():
    trainer = fit(Regression(), [callback := Reset(last=1, trigger="train/loss < 1e9")], steps=4)
    assert callback.events == 1
    assert trainer.callback_metrics["intervention/reset/parameters"] == 7.0  # 6 weights and a bias


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"last": 0}, "last=0 must be at least 1"),
        ({"moments": "drop"}, "moments='drop' must be one of zero, keep"),
    ],
)
def test_bad_arguments_of_reset(arguments, message):
    with pytest.raises(ValueError, match=message):
        Reset(every=1, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"alpha": 1.1}, r"alpha=1\.1 must be in \[0, 1\]"), ({"noise_std": -0.1}, r"noise_std=-0\.1 must not")],
)
def test_bad_arguments_of_shrink_and_perturb(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShrinkAndPerturb(every=1, **arguments)


@pytest.mark.parametrize("callback", [Reset("hed", every=1), ShrinkAndPerturb(heads=["hed"], every=1)])
def test_an_unknown_module_is_refused_before_training(callback):
    with pytest.raises(MisconfigurationException, match="'hed' matches no module"):
        fit(Regression(), [callback])
