"""One-shot pruning with and without regeneration, on a stranger's module: counts, masks, gradients, resume."""

import os
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from plasticity_lightning.callbacks import OneShotPruning
from plasticity_lightning.callbacks.sparse_training.one_shot_pruning import one_shot_masks


class Stranger(pl.LightningModule):
    """Two layers, Adam or SGD with momentum, automatic or manual optimisation."""

    def __init__(self, manual=False, adam=False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.automatic_optimization, self.adam = not manual, adam

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.last(self.first(batch[0]).tanh()), batch[1])
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self.last(self.first(batch[0]).tanh())
        self.log("val/accuracy", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01) if self.adam else torch.optim.SGD(self.parameters(), 0.1, 0.9)


def loader():
    generator = torch.Generator().manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(20, 6, generator=generator), torch.arange(20) % 3), batch_size=4)


def trainer(tmp_path, *callbacks, epochs=1):
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
    )


class Probe(pl.Callback):
    """Zeros of both weights after every batch, and the first gradient."""

    def __init__(self):
        self.zeros, self.gradient = [], None

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if self.gradient is None:
            self.gradient = pl_module.first.weight.grad.abs().clone()

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.zeros.append((int((pl_module.first.weight == 0).sum()), int((pl_module.last.weight == 0).sum())))


def test_uniform_takes_a_share_of_each_layer_and_global_of_all():
    weights = {"a": torch.tensor([[0.1, 0.2, 0.3, 0.0]]), "b": torch.tensor([[1.0, 2.0, -3.0, 4.0]])}
    uniform = one_shot_masks(weights, 0.5, "uniform")  # ceil(0.5 * 3) = 2 of a, 2 of b go
    assert uniform["a"].tolist() == [[False, False, True, False]]
    assert uniform["b"].tolist() == [[False, False, True, True]]
    everywhere = one_shot_masks(weights, 0.5, "global")  # ceil(0.5 * 7) = 4 go
    assert everywhere["a"].tolist() == [[False] * 4]
    assert everywhere["b"].tolist() == [[False, True, True, True]]


@given(st.integers(1, 60), st.floats(0, 0.99), st.sampled_from(["uniform", "global"]), st.integers(0, 100))
def test_counts_are_exact_and_the_largest_stay(n, rate, share, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(1, n, generator=generator)
    mask = one_shot_masks({"w": weight}, rate, share)["w"]
    assert abs(int(mask.sum()) - n * (1 - rate)) < 1 + 1e-6
    if mask.any() and not mask.all():
        assert weight[mask].abs().min() >= weight[~mask].abs().max()


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("adam", [False, True])
def test_masks_hold_after_every_step(manual, adam, tmp_path):
    probe, pruning = Probe(), OneShotPruning(0.75, "uniform")
    trainer(tmp_path, pruning, probe).fit(Stranger(manual, adam), loader())
    assert probe.zeros == [(36, 18)] * 5  # of 48 and 24
    assert pruning.sparsity == 0.75


@pytest.mark.parametrize("manual", [False, True])
def test_regeneration_brings_as_many_back_where_the_gradient_is_largest(manual, tmp_path):
    module = Stranger(manual)
    with torch.no_grad():
        module.first.weight[:4] = 0  # a sparse checkpoint: 24 of 48 live
    living = module.first.weight.detach() != 0
    large = module.first.weight.detach().abs()
    probe, pruning = Probe(), OneShotPruning(0.5, "uniform", regenerate=True, include=["first.weight"])
    trainer(tmp_path, pruning, probe).fit(module, loader())
    mask = pruning.masks["first.weight"]
    assert int(mask.sum()) == 24
    kept = living & (large >= large[living].sort().values[12])
    absent = ~kept
    threshold = probe.gradient[absent].sort(descending=True).values[11]
    assert torch.equal(mask, kept | (absent & (probe.gradient >= threshold)))
    assert (module.first.weight.detach()[mask] != 0).all()  # what has grown is trained


def test_on_a_dense_network_all_connections_return(tmp_path):
    probe, pruning = Probe(), OneShotPruning(0.75, "global", regenerate=True)
    trainer(tmp_path, pruning, probe).fit(Stranger(), loader())
    assert probe.zeros[-1] == (0, 0)


def test_rate_0_keeps_the_zeros_of_a_sparse_network(tmp_path):
    module, probe = Stranger(), Probe()
    with torch.no_grad():
        module.first.weight[0] = 0
    trainer(tmp_path, OneShotPruning(0.0), probe).fit(module, loader())
    assert probe.zeros == [(6, 0)] * 5


def test_validation_alone_prunes_first(tmp_path):
    module = Stranger()
    trainer(tmp_path, OneShotPruning(0.5, "uniform")).validate(module, loader(), verbose=False)
    assert int((module.first.weight == 0).sum()) == 24


def test_moments_of_pruned_weights_are_cleared(tmp_path):
    module = Stranger(adam=True)
    first = trainer(tmp_path)
    first.fit(module, loader())
    first.save_checkpoint(tmp_path / "a.ckpt")

    class AtStart(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 0:
                state = trainer.optimizers[0].state[pl_module.first.weight]
                zero = pl_module.first.weight == 0
                self.cleared = bool((state["exp_avg"][zero] == 0).all() and (state["exp_avg_sq"][zero] == 0).all())
                self.others = bool((state["exp_avg"][~zero] != 0).all())

    check = AtStart()
    trainer(tmp_path, OneShotPruning(0.5), check, epochs=2).fit(
        Stranger(adam=True), loader(), ckpt_path=tmp_path / "a.ckpt"
    )
    assert check.cleared
    assert check.others


def test_resume_is_bitwise(tmp_path):
    def callback():
        return OneShotPruning(0.5, "uniform", regenerate=True, include=["first.weight"])

    whole = Stranger()
    trainer(tmp_path, callback(), epochs=4).fit(whole, loader())
    half = trainer(tmp_path, callback(), epochs=2)
    half.fit(Stranger(), loader())
    half.save_checkpoint(tmp_path / "half.ckpt")
    rest, resumed = callback(), Stranger()
    trainer(tmp_path, rest, epochs=4).fit(resumed, loader(), ckpt_path=tmp_path / "half.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    other = OneShotPruning(0.5, include=["last.weight"])
    other.load_state_dict(rest.state_dict())
    with pytest.raises(MisconfigurationException, match="same include and exclude"):
        trainer(tmp_path, other).fit(Stranger(), loader())


def test_hooks_are_gone_afterwards_and_after_an_exception(tmp_path):
    class Failing(pl.Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError("stop")

    for extra in ([], [Failing()]):
        run = trainer(tmp_path, OneShotPruning(0.5), *extra)
        if extra:
            with pytest.raises(RuntimeError, match="stop"):
                run.fit(Stranger(), loader())
        else:
            run.fit(Stranger(), loader())
        assert all(not optimizer._optimizer_step_post_hooks for optimizer in run.optimizers)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"rate": 1.0}, r"rate must lie in \[0, 1\), got 1.0"),
        ({"rate": 0.5, "share": "unifrom"}, "share must be one of"),
    ],
)
def test_impossible_arguments_are_named(arguments, fault):
    with pytest.raises(ValueError, match=fault):
        OneShotPruning(**arguments)


def test_a_module_without_weights_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match="matches no parameter"):
        trainer(tmp_path, OneShotPruning(0.5, include=["nothing*"])).fit(Stranger(), loader())


_SCRIPT = """
import sys
import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from plasticity_lightning.callbacks import OneShotPruning
from tests.callbacks.sparse_training.test_one_shot_pruning import Probe, Stranger, loader

pruning, probe, module = OneShotPruning(0.5, regenerate=True), Probe(), Stranger()
with torch.no_grad():  # pruned before, so that regeneration has a choice
    module.first.weight[:, :3] = 0
trainer = pl.Trainer(max_epochs=1, accelerator="cpu", devices=2, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, strategy=DDPStrategy(process_group_backend="gloo"), callbacks=[pruning, probe])
trainer.fit(module, loader())
torch.save({"masks": pruning.masks, "state": module.state_dict(), "gradient": probe.gradient},
    f"{sys.argv[1]}/rank{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_ranks_prune_and_regrow_the_same_by_the_gradient_of_both(tmp_path):
    script, root = tmp_path / "script.py", Path(__file__).parents[3]
    script.write_text(_SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script), str(tmp_path)], cwd=root, env=environment, timeout=200, check=True)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert torch.equal(first["gradient"], second["gradient"])
    for name, mask in first["masks"].items():
        assert torch.equal(mask, second["masks"][name])
        assert torch.equal(first["state"][name], second["state"][name])
    # 48 inputs weights, of which 24 were 0, and 24 of the last layer: half of the 48 others went and came back
    assert sum(int(mask.sum()) for mask in first["masks"].values()) == 48
    mask, gradient = first["masks"]["first.weight"], first["gradient"]
    module = Stranger()
    kept = one_shot_masks(
        {"f": module.first.weight.detach() * (torch.arange(6) >= 3), "l": module.last.weight}, 0.5, "global"
    )["f"]
    grown = mask & ~kept
    assert gradient[grown].min() >= gradient[~mask].max()
