"""L2-init equals the penalty in the loss, decoupled equals it for plain SGD, and W_0 survives a resume."""

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.callbacks import L2Init

from .toys import Regression, fit, weights


class WithPenalty(Regression):
    """The same penalty, written into the loss."""

    def __init__(self, strength, optimizer):
        super().__init__(optimizer)
        self.initial = {name: p.detach().clone() for name, p in self.named_parameters()}
        self.strength = strength

    def training_step(self, batch, batch_idx):
        distance = sum((p - self.initial[n]).square().sum() for n, p in self.named_parameters())
        return super().training_step(batch, batch_idx) + self.strength * distance


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_coupled_it_is_the_penalty_in_the_loss(optimizer):
    expected, module = WithPenalty(0.5, optimizer), Regression(optimizer)
    fit(expected, [])
    fit(module, [L2Init(0.5)])
    for name, value in weights(expected).items():
        torch.testing.assert_close(weights(module)[name], value, msg=name)


def test_decoupled_agrees_with_coupled_for_plain_sgd_to_first_order_and_differs_for_adam():
    coupled, decoupled = Regression("sgd"), Regression("sgd")
    fit(coupled, [L2Init(1e-2)])
    fit(decoupled, [L2Init(1e-2, decoupled=True)])
    for name, value in weights(coupled).items():
        # the pull is taken after the step instead of before it: a difference of order lr^2 * strength
        torch.testing.assert_close(weights(decoupled)[name], value, atol=1e-5, rtol=0)
    coupled, decoupled = Regression(), Regression()
    fit(coupled, [L2Init(0.1)])
    fit(decoupled, [L2Init(0.1, decoupled=True)])
    assert (weights(coupled)["head.weight"] - weights(decoupled)["head.weight"]).abs().max() > 1e-3


def test_the_decoupled_pull_by_hand():
    module = Regression("sgd")
    start = weights(module)
    fit(module, [L2Init(50.0, decoupled=True)])  # lr * 2 * strength = 1e-2 * 100 = 1: each step ends at W_0
    for name, value in start.items():
        torch.testing.assert_close(weights(module)[name], value)


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_resumed_run_pulls_to_the_first_weights(decoupled, tmp_path):
    whole, resumed = Regression(), Regression(seed=99)
    fit(whole, [L2Init(0.1, decoupled)])
    fit(Regression(), [L2Init(0.1, decoupled)], root=tmp_path, save=3)
    fit(resumed, [L2Init(0.1, decoupled)], root=tmp_path, ckpt=tmp_path / "step=3.ckpt")
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), name


def test_only_the_chosen_parameters_are_pulled_and_the_penalty_is_logged():
    module = Regression("sgd")
    start = weights(module)
    callback = L2Init(50.0, decoupled=True, parameters="head.*")
    trainer = fit(module, [callback])
    assert torch.equal(weights(module)["head.weight"], start["head.weight"])
    assert not torch.equal(weights(module)["body.0.weight"], start["body.0.weight"])
    assert set(callback.anchors) == {"head.weight", "head.bias"}
    assert trainer.callback_metrics["intervention/l2_init/penalty"] == 0.0


def test_hooks_are_gone_after_training_and_after_an_exception():
    class Fails(Regression):
        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                raise RuntimeError("diverged")
            return super().training_step(batch, batch_idx)

    for module in (Regression(), Fails()):
        callback = L2Init(0.1, decoupled=True)
        try:
            trainer = fit(module, [callback])
        except RuntimeError:
            trainer = module.trainer
        assert not trainer.optimizers[0]._optimizer_step_post_hooks
        assert callback._handles == []


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="strength=-1 must not be negative"):
        L2Init(-1)
    with pytest.raises(MisconfigurationException, match=r"parameters=\['hed.\*'\] matches no trainable.*head.weight"):
        fit(Regression(), [L2Init(parameters="hed.*")])
