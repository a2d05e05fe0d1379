"""Interventions on networks as others write them: gates, attention, tied weights, GANs, recurrent and standardised layers."""

import warnings

import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

from plasticity_lightning.callbacks import ContinualBackprop, L2Init, PlasticityMonitor, ReDo, Reset, ShrinkAndPerturb

from .toys import fit


class Learner(LightningModule):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        return self.network(torch.cat([*batch, batch[1]], 1)).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


class Conv1D(nn.Module):
    """As in GPT-2: matrix [inputs, outputs], no `reset_parameters`."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(n_in, n_out) * 0.3), nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], -1)


class GPTBlock(nn.Module):
    def __init__(self, width=5, initialises=True):
        super().__init__()
        self.c_fc, self.c_proj = Conv1D(width, 6), Conv1D(6, width)
        if initialises:
            self._init_weights = self._draw

    def _draw(self, module):
        if isinstance(module, Conv1D):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    def forward(self, x):
        h = self.c_fc(x)
        return x + self.c_proj(0.5 * h * (1 + torch.tanh(0.8 * (h + 0.0447 * torch.pow(h, 3)))))


class SwiGLU(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.fused = fused
        self.gate, self.up = (nn.Linear(5, 12), None) if fused else (nn.Linear(5, 6), nn.Linear(5, 6))
        self.down = nn.Linear(6, 3)

    def forward(self, x):
        gate, up = self.gate(x).chunk(2, -1) if self.fused else (self.gate(x), self.up(x))
        return self.down(F.silu(gate) * up)


@pytest.mark.parametrize("fused", [True, False])
def test_a_gated_unit_is_its_pair_of_rows_and_dormant_when_the_product_is(fused):
    torch.manual_seed(0)
    network = SwiGLU(fused)
    with torch.no_grad():
        up = network.gate.weight[6:] if fused else network.up.weight
        bias = network.gate.bias[6:] if fused else network.up.bias
        up[2], bias[2] = 0, 0  # its gate is open and lets nothing through
    old = {name: p.clone() for name, p in network.state_dict().items()}
    module = Learner(network)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), 0.0)
    trainer = fit(module, [ReDo(tau=0.0, every=1)], steps=2)
    assert trainer.callback_metrics["intervention/redo/units"] == 1
    gate_changed = (network.gate.weight != old["gate.weight"]).any(1)
    expected = [2, 8] if fused else [2]
    assert gate_changed.nonzero().flatten().tolist() == expected
    if not fused:
        assert (network.up.weight != old["up.weight"]).any(1).nonzero().flatten().tolist() == [2]
    assert not network.down.weight[:, 2].any()


def test_gpt2_units_are_found_by_the_product_and_drawn_by_the_models_initialiser():
    module = Learner(GPTBlock())
    trainer = fit(module, [ReDo(tau=10.0, every=2)], steps=3)
    assert trainer.callback_metrics["intervention/redo/units"] == 6
    assert module.network.c_fc.weight.std() < 0.05  # 0.02, and 0.3 before
    with pytest.warns(UserWarning, match=r"network.c_fc \(Conv1D has no `reset_parameters`; pass `init`\)"):
        fit(Learner(GPTBlock(initialises=False)), [ReDo(tau=10.0, every=1)], steps=2)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(5, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.lstm(x[:, None])[0][:, -1])


class Standardised(nn.Linear):
    def forward(self, x):
        return F.linear(x, F.layer_norm(self.weight, self.weight.shape[1:]), self.bias)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = nn.Parameter(torch.randn(2, 5, 4))

    def forward(self, x):
        return torch.einsum("bi,eio->beo", x, self.experts).relu()


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Recurrent, "network.lstm (its gates are computed inside one fused function)"),
        (
            lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), Standardised(4, 4), nn.ReLU(), Standardised(4, 2)),
            "network.0 (the weight of network.2 is computed from a parameter",
        ),
        (Experts, "network (no linear map or convolution used its experts so far)"),
    ],
)
@pytest.mark.parametrize("callback", [lambda: ReDo(every=1), ContinualBackprop])
def test_a_callback_that_can_do_nothing_says_so_once_with_the_reason_for_each_layer(network, reason, callback):
    with pytest.warns(UserWarning, match="alone") as caught:
        fit(Learner(network()), [callback()], steps=4)
    told = [str(w.message) for w in caught if "leaves the units of these layers alone" in str(w.message)]
    assert len(told) == 1
    assert reason in told[0]


class Toggled(LightningModule):
    """Two networks whose weights are frozen in turn, as in a GAN."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.a = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 5))
        self.b = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))

    def training_step(self, batch, batch_idx):
        x = torch.cat([*batch, batch[1]], 1)
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(self.b(self.a(x)).square().mean())
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        return torch.optim.SGD(self.a.parameters(), 0.1), torch.optim.SGD(self.b.parameters(), 0.1)


def test_layers_frozen_for_the_other_optimisers_turn_are_replaced():
    trainer = fit(Toggled(), [ReDo(tau=10.0, every=1, unit="batch")], steps=6)
    assert trainer.callback_metrics["intervention/redo/units"] == 8


class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 5))
        self.norm, self.head = nn.LayerNorm(5), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.norm(torch.cat([self.cls_token.expand(len(x), -1, -1), x[:, None]], 1))[:, 0])


def test_reset_needs_only_the_chosen_layers_to_be_resettable():
    module = Learner(ViT())
    old = {name: p.clone() for name, p in module.state_dict().items()}
    trainer = fit(module, [Reset(last=1, every=2)], steps=2)
    assert trainer.callback_metrics["intervention/reset/parameters"] == 12  # 5 * 2 + 2: the head
    assert "network.cls_token" in old
    with pytest.raises(MisconfigurationException, match=r"'network' \(ViT holds cls_token"):
        fit(module, [Reset(every=2)], steps=2)


def test_shrink_and_perturb_leaves_what_cannot_be_drawn_and_names_it():
    with pytest.warns(UserWarning, match=r"leaves what cannot be drawn anew as it is: network \(ViT holds cls_token"):
        trainer = fit(Learner(ViT()), [ShrinkAndPerturb(every=2)], steps=2)
    assert trainer.callback_metrics["intervention/shrink_and_perturb/parameters"] == 22  # norm 10, head 12


def test_the_last_layer_is_one_with_a_matrix_and_the_norms_behind_it():
    network = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    network[3].weight.data.fill_(7.0)
    module = Learner(network)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), 0.0)
    first, last = network[0].weight.clone(), network[2].weight.clone()
    fit(module, [Reset(last=1, every=2)], steps=2)
    assert torch.equal(network[0].weight, first)
    assert not torch.equal(network[2].weight, last)
    assert network[3].weight.tolist() == [1.0, 1.0, 1.0]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.body, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.body(self.embedding(x)))


def test_tied_weights_are_shrunk_once_and_never_reset_by_half():
    module = Learner(Tied())
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), 0.0)
    old = module.network.head.weight.clone()
    fit(module, [ShrinkAndPerturb(alpha=0.5, noise_std=0.0, every=2)], steps=2)
    torch.testing.assert_close(module.network.head.weight, 0.5 * old)
    with pytest.raises(
        MisconfigurationException, match=r"network.head.weight is the same parameter as network.embedding"
    ):
        fit(module, [Reset(last=1, every=2)], steps=2)


class Stranger(pytorch_lightning.LightningModule):
    """Written against the other of Lightning's two packages."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def training_step(self, batch, batch_idx):
        return self.network(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def test_callbacks_work_in_the_trainer_of_pytorch_lightning():
    callbacks = [PlasticityMonitor(every=1), ReDo(tau=10.0, every=2), Reset(last=1, every=3), L2Init(1e-3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pytorch_lightning.Trainer(
            max_epochs=1,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
        )
        trainer.fit(Stranger(), DataLoader(torch.rand(32, 4), batch_size=8))
    assert trainer.callback_metrics["intervention/redo/units"] == 8
    assert "plasticity/fau/network" in trainer.callback_metrics


def test_coverage_names_what_each_intervention_acts_on_and_what_it_leaves_out(capsys):
    callbacks = [ReDo(every=100), Reset(last=1, every=100), L2Init(1e-3, parameters="network.down.*")]
    fit(Learner(SwiGLU(fused=False)), callbacks, steps=1)
    table = " ".join(capsys.readouterr().out.split())
    assert "replaceable" in table
    assert "network.gate" in table  # the name is folded in a narrow terminal
    assert "drawn anew" in table
    assert "pulled back" in table
