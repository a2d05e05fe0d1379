"""What the callbacks of sparse training mask in networks of many kinds, what they say they leave out, and what acts."""

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn import functional

from plasticity_lightning.callbacks import OneShotPruning, PruneRegrowScheduler
from plasticity_lightning.runtime.coverage import coverage_rows
from tests.callbacks.toy_networks import trainer
from tests.sparsity.test_acting import Standardised
from tests.sparsity.test_selection import Conv1D


class Transformer(nn.Module):
    """Fused attention, a Conv1D, a recurrent layer, stacked experts of which only one in two is used, an embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.up = Conv1D(16, 8)
        self.lstm = nn.LSTM(16, 8, batch_first=False)
        self.experts = nn.Parameter(torch.randn(2, 8, 8) / 8)
        self.out = nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))

    def forward(self, x):
        """Tokens [T, B] -> [B, 3]."""
        h = self.embedding(x)
        h = h + self.attention(h, h, h)[0]
        h = self.lstm(self.up(h.flatten(0, 1)).view(*h.shape[:2], 16).relu())[0][-1]
        return self.out(h @ self.experts[0])


class Normalised(nn.Module):
    """A standardising convolution, of whose weights none are 0 when they act."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = Standardised(1, 8, 3), nn.utils.parametrizations.spectral_norm(nn.Linear(8 * 16, 3))

    def forward(self, x):
        """Images [B, 1, 6, 6] -> [B, 3]."""
        return self.out(self.conv(x).relu().flatten(1))


class Learner(LightningModule):
    def __init__(self, network, sequences):
        super().__init__()
        self.network, self.sequences = network, sequences

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self.network(batch[0].T if self.sequences else batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


def data(sequences, batch_size=8):
    generator = torch.Generator().manual_seed(0)
    x = (
        torch.randint(0, 11, (32, 5), generator=generator)
        if sequences
        else torch.randn(32, 1, 6, 6, generator=generator)
    )
    pairs = torch.utils.data.TensorDataset(x, torch.randint(0, 3, (32,), generator=generator))
    return torch.utils.data.DataLoader(pairs, batch_size=batch_size)


class Rows(Callback):
    """The table of coverage as data."""

    def on_train_end(self, trainer, pl_module):
        self.rows = {row.name: (row.what, row.reason) for row in coverage_rows(trainer, pl_module)}


def fit(network, keeper, sequences, **options):
    torch.manual_seed(0)
    module, rows = Learner(network(), sequences), Rows()
    run = trainer([keeper, rows], log_every_n_steps=2, **options)
    run.fit(module, data(sequences))
    return module, rows.rows, {name: float(value) for name, value in run.callback_metrics.items()}


@pytest.mark.parametrize(
    "make",
    [
        lambda: PruneRegrowScheduler("granet", 0.8, every=3, summary=False, include=["*weight*", "*.experts"]),
        lambda: PruneRegrowScheduler("rigl", 0.8, every=3, summary=False, include=["*weight*", "*.experts"]),
        lambda: OneShotPruning(0.8, include=["*weight*", "*.experts"]),
    ],
    ids=["granet", "rigl", "one shot"],
)
def test_matrices_of_all_kinds_are_masked_and_what_is_left_out_is_said(make):
    keeper = make()
    module, rows, logged = fit(Transformer, keeper, sequences=True)
    masked = {"attention.in_proj_weight", "attention.out_proj.weight", "up.weight", "experts"}
    masked = {f"network.{name}" for name in masked | {"lstm.weight_ih_l0", "lstm.weight_hh_l0"}}
    assert set(keeper.masks) == masked == {name for name, (what, _) in rows.items() if what == "masked"}
    for name, mask in keeper.masks.items():
        assert (module.get_parameter(name)[~mask] == 0).all()
    living = sum(int(mask.sum()) for mask in keeper.masks.values())
    assert abs(living - 0.2 * sum(mask.numel() for mask in keeper.masks.values())) <= 1
    left = {name: reason for name, (what, reason) in rows.items() if what == "left out"}
    assert set(left) == {
        "network.embedding.weight",
        *(f"network.out.parametrizations.weight.original{i}" for i in (0, 1)),
    }
    assert "a pattern of its own" in left["network.embedding.weight"]
    assert "WeightNorm" in left["network.out.parametrizations.weight.original1"]
    if "sparsity/global" in logged:
        assert logged["sparsity/effective"] == pytest.approx(logged["sparsity/global"])


def test_what_acts_is_logged_beside_the_masks_and_a_layer_that_revives_zeros_is_named_once(recwarn):
    keeper = PruneRegrowScheduler("static_random", 0.8, summary=False)
    module, rows, logged = fit(Normalised, keeper, sequences=False)
    assert logged["sparsity/global"] == pytest.approx(0.8, abs=0.01)
    n_conv, n_out = 8 * 9, 3 * 128
    assert logged["sparsity/effective"] == pytest.approx(0.8 * n_out / (n_conv + n_out), abs=0.01)
    told = [str(w.message) for w in recwarn if "not as sparse as the masks" in str(w.message)]
    assert len(told) == 1
    assert "network.conv.weight (80.6% masked, 0.0% of what acts is 0)" in told[0]
    assert "network.out" not in told[0]
    assert rows["network.out.parametrizations.weight.original"][0] == "masked"
    assert (module.network.out.weight == 0).float().mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("batch_size", [4, 16])
def test_the_share_of_flops_does_not_depend_on_the_batch(batch_size):
    torch.manual_seed(0)
    module, keeper = Learner(Transformer(), True), PruneRegrowScheduler("static_erk", 0.8, summary=False)
    run = trainer([keeper], max_epochs=1)
    run.fit(module, data(True, batch_size))
    # uses of a sample of 5 tokens: the attention's and the LSTM's weights 5, the last layer's 1
    positions = {"attention.in_proj_weight": 5, "attention.out_proj.weight": 5, "up.weight": 5}
    positions |= {"lstm.weight_ih_l0": 5, "lstm.weight_hh_l0": 5}
    found = {name.removeprefix("network."): n for name, n in keeper.groups[0].flops.positions.items()}
    assert {name: found[name] for name in positions} == positions
    assert found["embedding.weight"] == 0


def test_a_masked_weight_that_is_not_seen_at_work_is_said():
    class Idle(Normalised):
        def __init__(self):
            super().__init__()
            self.idle = nn.Linear(3, 3)

    _, rows, _ = fit(Idle, PruneRegrowScheduler("static_erk", 0.5, summary=False), sequences=False)
    assert rows["network.idle.weight"] == ("masked", "not seen at work in the first batch")
