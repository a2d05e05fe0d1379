"""What becomes of the layers of a sparse network in each format."""

import pytest
import torch
from torch import nn

from plasticity_lightning.sparsity.compress import CSRLinear, compress, zeros_share
from plasticity_lightning.sparsity.condensed import CondensedLinear
from plasticity_lightning.sparsity.structured import is_n_m, limit_mask


def network(keep: float = 0.3) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    with torch.no_grad():
        for layer in (net[0], net[3]):
            layer.weight.mul_(torch.rand_like(layer.weight) < keep)
    return net


def two_of_four(net: nn.Sequential) -> nn.Sequential:
    with torch.no_grad():
        for layer in (net[0], net[3]):
            layer.weight.mul_(limit_mask(layer.weight.abs(), 2, 4))
    return net


X = torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("format", "kind"), [("csr", CSRLinear), ("condensed", CondensedLinear)])
def test_sparse_linear_layers_lose_their_zeros(format, kind):
    net = network()
    smaller, rows = compress(net, format)
    assert isinstance(smaller[3], kind)
    assert type(net[3]) is nn.Linear  # the network is left as it is
    torch.testing.assert_close(smaller(X), net(X), atol=1e-5, rtol=1e-5)
    assert [(row.name, row.form) for row in rows] == [("0", "dense"), ("3", format), ("5", "dense")]
    assert [row.note for row in rows][::2] == ["a convolution", "less than 50% zeros"]
    assert rows[1].zeros == zeros_share(net[3].weight)
    assert not any(p.requires_grad for p in smaller.parameters())


def test_condensed_tells_fan_in_padding_and_outputs_without_weights():
    linear = nn.Linear(4, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0] * 4, [0.0, 0.0, 0.0, 3.0]]))
    smaller, (row,) = compress(linear, "condensed")
    assert isinstance(smaller, CondensedLinear)  # a network may be one layer
    assert row.note == "fan-in 2, padding 25.0%, 1 outputs without weights"


def test_2_4_stays_as_it_is_and_is_checked():
    net = two_of_four(network(keep=1.0))
    smaller, rows = compress(net, "2:4")
    assert torch.equal(smaller(X), net.eval()(X))
    assert [row.form for row in rows] == ["2:4", "2:4", "dense"]
    assert "of no size that torch's kernel takes" in rows[0].note  # a convolution
    assert rows[1].note == ""  # [32, 128]


def test_what_is_not_2_4_is_refused_unless_projection_is_asked_for():
    net = network(keep=0.4)
    with pytest.raises(ValueError, match=r"0, 3 are not 2:4 .*: train with structure='2:4'"):
        compress(net, "2:4")
    smaller, _ = compress(net, "2:4", project=True)
    for layer, before in ((smaller[0], net[0]), (smaller[3], net[3])):
        assert is_n_m(layer.weight != 0, 2, 4)
        kept = layer.weight != 0
        assert torch.equal(layer.weight[kept], before.weight[kept])


def test_inputs_that_do_not_divide_into_fours_stay_dense():
    net = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    with torch.no_grad():
        for layer in net:
            layer.weight[:, 1:] = 0
    _, rows = compress(net, "2:4")
    assert (rows[0].form, rows[0].note) == ("dense", "its inputs do not divide into fours")
    with pytest.raises(ValueError, match=r"no layer can be 2:4: it \(its inputs do not divide into fours\)"):
        compress(net[0], "2:4")


def test_a_network_of_convolutions_is_refused_where_they_would_all_stay_dense():
    with pytest.raises(ValueError, match=r"no layer can be csr: 0 \(a convolution\)"):
        compress(network()[:1], "csr")


def test_shared_layers_stay_shared_and_subclasses_dense():
    class Special(nn.Linear):
        def forward(self, x):
            return super().forward(x).neg()

    shared = nn.Linear(4, 4)
    net = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared), "c": Special(4, 4)})
    with torch.no_grad():
        for weight in (shared.weight, net["c"].weight):
            weight[:, 1:] = 0
    smaller, rows = compress(net, "condensed")
    assert smaller["a"] is smaller["b"][0]
    assert (rows[1].name, rows[1].form, rows[1].note) == ("c", "dense", "a Special")


def test_attention_is_left_alone():
    net = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2, batch_first=True), "linear": nn.Linear(8, 8)})
    with torch.no_grad():
        net["attention"].out_proj.weight[:, 1:] = 0
        net["linear"].weight[:, 1:] = 0
    smaller, rows = compress(net, "condensed")
    x = torch.randn(1, 3, 8)
    torch.testing.assert_close(smaller["attention"](x, x, x)[0], net["attention"](x, x, x)[0])
    assert [row.form for row in rows] == ["dense", "condensed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "cst"}, "format must be one of csr, condensed, 2:4, dense, got 'cst'.*'csr'"),
        ({"format": "csr", "min_sparsity": 2}, r"min_sparsity=2 must lie in \[0, 1\]"),
        ({"format": "csr", "project": True}, "project=True makes weights 2:4; format is 'csr'"),
        ({"format": "csr", "min_sparsity": 0.99}, r"the network is dense: .* has 99% zeros; the sparsest, \d, has"),
    ],
)
def test_errors_say_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        compress(network(), **arguments)
    dense, rows = compress(network(1.0), "dense")  # nothing to refuse
    assert {row.form for row in rows} == {"dense"}
    assert not dense.training


def test_csr_takes_any_leading_dimensions_and_no_bias():
    linear = nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        linear.weight[:, :3] = 0
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(CSRLinear(linear)(x), linear(x))
