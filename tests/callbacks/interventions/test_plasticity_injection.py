"""Plasticity injection in a run: nothing jumps, the new head learns, checkpoints load before and after."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.callbacks import PlasticityInjection

from .toys import Regression, fit, weights


class Probe(Callback):
    """Outputs on a fixed batch around the end of each batch."""

    def __init__(self):
        self.outputs = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.eval()
        with torch.no_grad():
            self.outputs.append(pl_module(torch.ones(2, 3)))
        pl_module.train()


def test_the_output_does_not_jump_and_the_new_head_learns():
    module, before, after = Regression(), Probe(), Probe()
    trainer = fit(module, [before, PlasticityInjection(["head"], at=3), after], steps=6)
    assert all(torch.equal(a, b) for a, b in zip(before.outputs, after.outputs, strict=True))
    assert not torch.equal(before.outputs[3], before.outputs[2])
    assert trainer.callback_metrics["intervention/plasticity_injection/parameters"] == 7.0
    state = trainer.optimizers[0].state
    assert state[module.head.learner.weight]["step"] == 3
    assert state[module.head.original.weight]["step"] == 3


@pytest.mark.parametrize("cut", [2, 4])
def test_a_resumed_run_ends_with_bitwise_the_same_weights(cut, tmp_path):
    whole, resumed = Regression(), Regression(seed=99)
    fit(whole, [PlasticityInjection(["head"], at=3)])
    fit(Regression(), [PlasticityInjection(["head"], at=3)], root=tmp_path, save=cut)
    fit(resumed, [PlasticityInjection(["head"], at=3)], root=tmp_path, ckpt=tmp_path / f"step={cut}.ckpt")
    assert resumed.head.injected
    for name, value in whole.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_measure_triggers_it_once():
    module = Regression()
    callback = PlasticityInjection(["head"], trigger="train/loss > 0")
    trainer = fit(module, [callback], steps=6)
    assert module.head.injected
    assert trainer.callback_metrics["intervention/plasticity_injection/heads"] == 1.0
    reference = weights(module.head.reference)
    callback.act(trainer, module)
    assert all(torch.equal(v, weights(module.head.reference)[k]) for k, v in reference.items())


def test_heads_that_are_averaged_together_get_the_same_weights():
    class Twins(Regression):
        def __init__(self):
            super().__init__()
            self.target = torch.nn.Linear(6, 1)

    module = Twins()
    fit(module, [PlasticityInjection(["head", "target"], at=1)], steps=1)
    assert torch.equal(module.head.reference.weight, module.target.reference.weight)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="must name at least one module"):
        PlasticityInjection([], at=1)
    with pytest.raises(MisconfigurationException, match=r"'hed' is no module; there are .*'head'"):
        fit(Regression(), [PlasticityInjection(["hed"], at=1)])
    with pytest.raises(MisconfigurationException, match="ddp_find_unused_parameters_true"):
        fit(Regression(), [PlasticityInjection(["head"], at=1)], strategy="ddp", devices=1)
