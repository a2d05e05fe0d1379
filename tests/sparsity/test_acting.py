"""Uses of weights against counts by hand, in any layout and form of call; tensors that act in a parameter's place."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from plasticity_lightning.sparsity.acting import ActingWeights
from plasticity_lightning.sparsity.flops import FlopsLedger


def uses(module, *inputs):
    with ActingWeights(module) as acting:
        module(*inputs)
    return acting.uses()


def test_convolutions_and_linear_by_hand():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(8 * 9, 10)
    )
    # 11 x 11 -> stride 2, kernel 3: 5 x 5 -> 3 x 3
    with ActingWeights(net) as acting:
        net(torch.zeros(6, 1, 11, 11))
    assert acting.positions(6) == {"0.weight": 25, "2.weight": 9, "4.weight": 1}
    up = nn.ConvTranspose2d(2, 3, 4, stride=2)
    assert uses(up, torch.zeros(2, 2, 5, 6)) == {"weight": 60}
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert uses(tied, torch.zeros(2, 3)) == {"0.weight": 4}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("batch", [4, 16])
def test_the_layout_of_sequences_does_not_matter(batch, batch_first):
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 5, num_layers=2, batch_first=batch_first)
            self.token, self.out = nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x):
            h = self.token(self.lstm(x)[0])
            return self.out(h[:, -1] if batch_first else h[-1])

    net = Sequence()
    x = torch.zeros(batch, 7, 3) if batch_first else torch.zeros(7, batch, 3)
    with ActingWeights(net) as acting:
        net(x)
    expected = {f"lstm.weight_{part}_l{layer}": 7 for layer in (0, 1) for part in ("ih", "hh")}
    assert acting.positions(batch) == {**expected, "token.weight": 7, "out.weight": 1}
    ledger = FlopsLedger(acting.sizes)
    ledger.observe(acting.uses())  # the batch's uses serve as well: shares do not know the batch
    by_sample = FlopsLedger(acting.sizes, acting.positions(batch))
    assert ledger.inference({"token.weight": 3}) == by_sample.inference({"token.weight": 3})


class Raw(nn.Module):
    """One matrix [out, in], used in one of many ways."""

    def __init__(self, way):
        super().__init__()
        self.w, self.way = nn.Parameter(torch.randn(5, 3)), way

    def forward(self, x):
        return self.way(x, self.w)


WAYS = {
    "functional": lambda x, w: functional.linear(x, w),
    "keyword": lambda x, w: functional.linear(x, weight=w),
    "operator": lambda x, w: x @ w.T,
    "matmul": lambda x, w: torch.matmul(x, w.t()),
    "other": lambda x, w: torch.matmul(x, other=w.t()),
    "right": lambda x, w: w @ x.mT,
    "mm": lambda x, w: torch.mm(x.flatten(0, 1), w.t()),
    "method": lambda x, w: x.flatten(0, 1).mm(mat2=w.t()),
    "addmm": lambda x, w: torch.addmm(torch.zeros(5), x.flatten(0, 1), w.T),
    "einsum": lambda x, w: torch.einsum("bti,oi->bto", x, w),
    "dots": lambda x, w: torch.einsum("...i,oi->...o", x, w),
    "slices": lambda x, w: torch.cat([x @ w[:2].T, x @ w[2:].T], 2),
    "detached": lambda x, w: x @ w.detach().T,
    "tensordot": lambda x, w: functional.bilinear(x, x, w[None, :3].expand(1, 3, 3)) @ torch.ones(1, 1),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_raw_matrix_is_seen_however_it_is_multiplied(way):
    found = uses(Raw(WAYS[way]), torch.randn(4, 2, 3))
    # every weight meets 8 vectors; the last way uses 9 of 15 weights for 8 pairs of vectors
    assert found == {"w": 8 if way != "tensordot" else 8 * 9 / 15}


def test_attention_cells_and_stacked_experts():
    attention = nn.MultiheadAttention(6, 2)
    query, key = torch.randn(5, 3, 6), torch.randn(8, 3, 6)  # [L, B, E]
    # 15 query tokens, 24 of keys and of values: each third of the rows its own
    assert uses(attention, query, key, key) == {"in_proj_weight": (15 + 24 + 24) / 3, "out_proj.weight": 15}
    separate = nn.MultiheadAttention(6, 2, kdim=4, vdim=4, batch_first=True)
    key = torch.randn(3, 8, 4)
    found = uses(separate, torch.randn(3, 5, 6), key, key)
    assert found == {"q_proj_weight": 15, "k_proj_weight": 24, "v_proj_weight": 24, "out_proj.weight": 15}
    assert uses(nn.GRUCell(3, 4), torch.randn(6, 3)) == {"weight_ih": 6, "weight_hh": 6}

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 3, 5))

        def forward(self, x):
            return torch.bmm(x, self.w) if x.ndim == 3 else x @ self.w[1]

    assert uses(Experts(), torch.randn(4, 7, 3)) == {"w": 7}
    assert uses(Experts(), torch.randn(8, 3)) == {"w": 2}  # 8 samples, a quarter of the weights


def test_passes_without_autograd_count_only_where_there_are_no_others():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with ActingWeights(net) as acting:
        with torch.no_grad():
            net(torch.zeros(5, 3))
        net[0](torch.zeros(2, 3))
    assert acting.uses() == {"0.weight": 2, "1.weight": 5}


class Standardised(nn.Conv2d):
    """As NF-ResNet's: rows get mean 0 and length 1 in the forward pass."""

    def forward(self, x):
        weight = functional.batch_norm(self.weight.view(1, len(self.weight), -1), None, None, training=True)
        return self._conv_forward(x, weight.view_as(self.weight), self.bias)


def test_what_acts_in_a_parameters_place_is_looked_at():
    net = nn.Sequential(
        Standardised(3, 4, 3),
        nn.Flatten(),
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 8)),
        nn.Linear(8, 2),
    )
    weights = {"0.weight": net[0].weight, "2.parametrizations.weight.original": net[2].parametrizations.weight.original}
    with torch.no_grad():
        for weight in (*weights.values(), net[3].weight):
            weight[torch.rand_like(weight) < 0.5] = 0.0
    with ActingWeights(net) as acting:
        out = net(torch.randn(2, 3, 3, 3)).sum()
    zeros = {name: float((weight == 0).float().mean()) for name, weight in weights.items()}
    assert set(acting.computed) == set(weights)  # the last layer's weight acts itself
    assert float(acting.computed["0.weight"]) == 0  # standardising revives them all
    spectral = "2.parametrizations.weight.original"
    assert float(acting.computed[spectral]) == pytest.approx(zeros[spectral])
    assert {"0.weight", spectral, "3.weight"} <= set(acting.uses())
    assert acting.uses()[spectral] == 2
    out.backward()


def test_an_optimiser_that_multiplies_gradients_is_not_taken_for_a_layer():
    net = nn.Linear(3, 3)
    with ActingWeights(net) as acting:
        net(torch.randn(4, 3)).sum().backward()
        gradient = net.weight.grad
        (gradient @ gradient.T).sum()
        with torch.no_grad():
            net.weight.grad @ net.weight.grad.T
    assert acting.computed == {}
    assert acting.uses() == {"weight": 4}
