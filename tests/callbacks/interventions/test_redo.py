"""ReDo on a stranger's module: the dormant units, all of them and no others, on the batch after an event is due."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from plasticity_lightning.callbacks import ReDo

from .toys import Regression, fit, weights


class Dying(Regression):
    """Units 1 and 5 of the first hidden layer and 0 of the second are silent for good."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body[3].p = 0.0
        for layer, units in ((self.body[0], [1, 5]), (self.body[4], [0])):
            layer.bias.data.fill_(3.0)  # the others respond to everything
            layer.bias.data[units] = -100.0


def test_silent_units_are_replaced_moments_and_all_and_the_output_does_not_change():
    x = torch.randn(16, 3)
    plain, module = Dying(), Dying()
    fit(plain, [], steps=4)
    trainer = fit(module, [ReDo(tau=0.0, at=[3])], steps=4)
    assert trainer.callback_metrics["intervention/redo/units"] == 3.0
    assert trainer.callback_metrics["intervention/redo/fraction"] == pytest.approx(3 / 14)
    torch.testing.assert_close(module(x), plain(x))
    first, second, head = module.body[0], module.body[4], module.head
    assert [i for i in range(8) if not torch.equal(first.weight[i], plain.body[0].weight[i])] == [1, 5]
    assert first.bias[[1, 5]].abs().max() < 1
    assert [i for i in range(8) if not second.weight[:, i].any()] == [1, 5]
    assert [i for i in range(6) if not head.weight[:, i].any()] == [0]
    state = trainer.optimizers[0].state
    plain_state = plain.trainer.optimizers[0].state
    for key in ("exp_avg", "exp_avg_sq"):
        for mine, theirs, entries in (
            (first.weight, plain.body[0].weight, (slice(None), [1, 5], 0)),
            (head.weight, plain.head.weight, (slice(None), [0], 1)),
        ):
            dim, indices = entries[2], entries[1]
            kept = [i for i in range(mine.shape[dim]) if i not in indices]
            assert not state[mine][key].index_select(dim, torch.tensor(indices)).any()
            assert torch.equal(
                state[mine][key].index_select(dim, torch.tensor(kept)),
                plain_state[theirs][key].index_select(dim, torch.tensor(kept)),
            )
    # in the second layer row 0 (its own unit) and columns 1 and 5 (silent inputs) are forgotten
    moments, theirs = state[second.weight]["exp_avg"], plain_state[plain.body[4].weight]["exp_avg"]
    assert not moments[0].any()
    assert not moments[:, [1, 5]].any()
    rest = [0, 2, 3, 4, 6, 7]
    assert torch.equal(moments[1:][:, rest], theirs[1:][:, rest])
    assert state[second.weight]["step"] == 4


def test_functional_code_and_convolutions():
    class Conv(Regression):
        def __init__(self):
            super().__init__()
            self.body = None
            self.conv1, self.conv2, self.head = nn.Conv1d(1, 4, 1), nn.Conv1d(4, 3, 1), nn.Linear(9, 1)
            self.conv1.bias.data.fill_(5.0)
            self.conv2.bias.data.fill_(20.0)
            self.conv1.bias.data[2] = self.conv2.bias.data[1] = -100.0

        def forward(self, x):
            return self.head(F.relu(self.conv2(F.relu(self.conv1(x[:, None])))).flatten(1))

    module = Conv()
    trainer = fit(module, [ReDo(tau=0.0, at=[2])], steps=3)
    assert trainer.callback_metrics["intervention/redo/units"] == 2.0
    assert not module.conv2.weight[:, 2].any()
    assert not module.head.weight[:, 3:6].any()  # the block of channel 1
    assert module.head.weight[:, :3].all()


def test_residual_streams_are_left_alone_with_one_warning_and_can_be_named():
    class Residual(Regression):
        def forward(self, x):
            h = F.relu(self.body[0](x))
            return self.head(F.relu(self.body[4](h + 0.1 * h.flip(1))))

    with pytest.warns(UserWarning, match=r"ReDo leaves the units of these layers alone: body.0 \(its output goes into"):
        trainer = fit(Residual(), [ReDo(tau=10.0, every=1)], steps=4)
    assert trainer.callback_metrics["intervention/redo/units"] == 6.0
    trainer = fit(Residual(), [ReDo(tau=10.0, every=1, layers={"body.0": ["body.4"]})], steps=4)
    assert trainer.callback_metrics["intervention/redo/units"] == 8.0


def test_frozen_and_unchosen_layers_are_left_alone():
    module = Dying()
    module.body[0].requires_grad_(False)
    old = weights(module)
    trainer = fit(module, [ReDo(tau=10.0, every=2)], steps=4)
    assert trainer.callback_metrics["intervention/redo/units"] == 6.0
    assert torch.equal(module.body[0].weight, old["body.0.weight"])
    trainer = fit(Dying(), [ReDo(tau=10.0, every=2, modules="body.0")], steps=4)
    assert trainer.callback_metrics["intervention/redo/units"] == 8.0


def test_nothing_is_watched_while_no_event_is_due_nor_after_an_exception():
    class Watched(Regression):
        modes = ()

        def training_step(self, batch, batch_idx):
            self.modes += (len(_get_current_function_mode_stack()),)
            if batch_idx == 7:
                raise RuntimeError("diverged")
            return super().training_step(batch, batch_idx)

    module = Watched()
    with pytest.raises(RuntimeError, match="diverged"):
        fit(module, [ReDo(every=3)], steps=20)
    # the first batch to know the layers, then those in which an event is due
    assert module.modes == (1, 0, 0, 1, 0, 0, 1, 0)
    module.modes = ()
    with pytest.raises(RuntimeError, match="diverged"):
        fit(module, [ReDo(every=7)], steps=20)
    assert module.modes[7] == 1
    assert _get_current_function_mode_stack() == []


def test_a_compiled_network_is_watched_eagerly_and_sees_the_new_weights():
    module = Dying()
    module.body.compile(backend="eager")
    x = torch.randn(4, 3)
    trainer = fit(module, [ReDo(tau=0.0, at=[2])], steps=3)
    assert trainer.callback_metrics["intervention/redo/units"] == 3.0
    with torch.no_grad():
        compiled = module.body(x)
        eager = module.body.forward(x)
    torch.testing.assert_close(compiled, eager)


def test_the_default_schedule_and_mistakes():
    assert ReDo().trigger.every == 1000
    assert ReDo(trigger="a < 1").trigger.every is None
    with pytest.raises(ValueError, match="tau=-1 must be at least 0"):
        ReDo(tau=-1)
    with pytest.raises(MisconfigurationException, match=r"layers names 'bdy'.*body.0"):
        fit(Regression(), [ReDo(layers={"bdy": ["head"]})])
    with pytest.raises(MisconfigurationException, match="modules='hed' matches no module"):
        fit(Regression(), [ReDo(modules="hed")])
    with pytest.raises(
        MisconfigurationException, match=r"'body.0' reads 'body.4', but its 3 inputs are no multiple of the 6"
    ):
        fit(Regression(), [ReDo(layers={"body.4": ["body.0"]}, every=1)])
