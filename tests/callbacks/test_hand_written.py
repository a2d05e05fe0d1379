"""The callbacks on networks with structures that are easy to get wrong: each acts on what it says, and says what it leaves out."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from plasticity_lightning.callbacks import PlasticityInjection, PlasticityMonitor, ReDo, ShrinkAndPerturb
from plasticity_lightning.runtime.coverage import coverage_rows
from tests.callbacks.hand_written import NETWORKS
from tests.strangers import works_with

FUSED = "its gates are computed inside one fused function"
# what the table of coverage must say: (callback, part) -> (what, a word of the reason)
SAID = {
    "unet": {("ReDo", "network.down2"): ("replaceable", ""), ("ReDo", "network.down1"): ("left out", "cat"),
             ("PruneRegrowScheduler", "network.up.weight"): ("masked", "")},
    "gated recurrent": {("ReDo", "network.lstm"): ("left out", FUSED), ("ReDo", "network.gate*network.value"): ("replaceable", ""),
                        ("PruneRegrowScheduler", "network.lstm.weight_hr_l0"): ("masked", "")},
    "experts": {("PruneRegrowScheduler", "network.w_in"): ("left out", "a pattern of its own in include takes it"),
                ("ShrinkAndPerturb", "network"): ("left out", "reset_parameters"), ("ReDo", "network.router"): ("left out", "softmax")},
    "cross attention": {("PruneRegrowScheduler", "network.attention.k_proj_weight"): ("masked", ""),
                        ("ReDo", "network.hidden"): ("replaceable", "")},
    "tcn": {("PruneRegrowScheduler", "network.first.parametrizations.weight.original1"): ("left out", "WeightNorm"),
            ("ReDo", "network.first"): ("left out", "normalised"), ("ShrinkAndPerturb", "network.blocks.1"): ("shrunk", "")},
    "separable": {("ReDo", "network.depth1"): ("replaceable", ""), ("ReDo", "network.stem"): ("left out", "grouped convolution"),
                  ("PruneRegrowScheduler", "network.depth2.weight"): ("masked", "")},
    "decoder": {("ReDo", "network.decoder.layers.1.linear1"): ("replaceable", ""),
                ("ReDo", "network.decoder.layers.0.linear2"): ("left out", "add"),
                ("PruneRegrowScheduler", "network.decoder.layers.0.multihead_attn.in_proj_weight"): ("masked", "")},
}  # fmt: skip


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(works_with, "NETWORKS", NETWORKS)
    return request.param


def test_every_callback_works_or_refuses_clearly_and_says_what_it_covers(network: str) -> None:
    _, module, _ = works_with.train(network, [])
    plain = {name: value.clone() for name, value in module.state_dict().items()}
    cells = {callback: works_with.cell(network, callback, plain) for callback in works_with.CALLBACKS}
    assert not any("**" in cell or "refuses" in cell for cell in cells.values()), cells
    for (callback, part), (what, reason) in SAID[network].items():
        callbacks = works_with.CALLBACKS[callback]()
        trainer, module, _ = works_with.train(network, callbacks)
        found = [row for row in coverage_rows(trainer, module) if row.name == part and row.callback == callback]
        assert [row.what for row in found] == [what], (part, found)
        assert reason in found[0].reason


class Before(pl.Callback):
    """Keeps the weights as they are at its turn."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        self.weights = {name: p.detach().clone() for name, p in pl_module.named_parameters()}


def test_nothing_depends_on_a_replaced_unit(network: str) -> None:
    """What a new unit reads may be anything: nobody reads it yet."""
    before = Before()
    trainer, module, _ = works_with.train(network, [before, ReDo(tau=1.0, at=[5], unit="batch")])
    rows = [row for row in coverage_rows(trainer, module) if row.callback == "ReDo" and row.what == "replaceable"]
    names = [name for row in rows for name in row.name.split("*")]
    module.eval()
    batch = NETWORKS[network]()[1].dataset[0]
    batch = batch if network == "decoder" else batch[0]
    with torch.no_grad():
        output, replaced = module.network(batch), 0
        for name in names:
            weight = module.get_submodule(name).weight
            new = (weight != before.weights[f"{name}.weight"]).flatten(1).all(1)
            replaced += int(new.sum())
            weight[new] += torch.randn_like(weight[new])
            assert torch.equal(module.network(batch), output), name
    assert replaced > 0 or not names


def test_a_monitor_serves_a_second_fit(network: str) -> None:
    monitor = PlasticityMonitor(["weight_norm"], every=2)
    for _ in range(2):
        trainer, _, _ = works_with.train(network, [monitor])
        assert float(trainer.callback_metrics["plasticity/weight_norm/network"]) > 0


def test_weight_norm_is_drawn_anew_behind_its_parametrisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(works_with, "NETWORKS", NETWORKS)
    _, module, _ = works_with.train("tcn", [ShrinkAndPerturb(alpha=0.0, at=[6], unit="batch", seed=3)])
    weights = [conv.weight for conv in (module.network.first, *module.network.blocks)]
    # what Conv1d draws: uniform within 1 / sqrt(fan in)
    for weight in weights:
        bound = (weight.shape[1] * weight.shape[2]) ** -0.5
        assert 0.5 * bound < float(weight.abs().max()) <= bound * (1 + 1e-5)


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_injection_into_a_normed_head_does_not_change_the_output(norm: object, monkeypatch: pytest.MonkeyPatch) -> None:
    class Outputs(pl.Callback):
        def __init__(self) -> None:
            self.seen = []

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
            pl_module.eval()
            with torch.no_grad():
                self.seen.append(pl_module.network(torch.ones(2, 2, 9)))
            pl_module.train()

    def build() -> tuple[pl.LightningModule, object]:
        module, loader = NETWORKS["tcn"]()
        module.network.out = norm(module.network.out)
        return module, loader

    monkeypatch.setattr(works_with, "NETWORKS", {"normed": build})
    before, after = Outputs(), Outputs()
    works_with.train("normed", [before, PlasticityInjection(["network.out"], at=3, unit="batch"), after])
    assert all(torch.equal(a, b) for a, b in zip(before.seen, after.seen, strict=True))
    assert not torch.equal(before.seen[-1], before.seen[2])
