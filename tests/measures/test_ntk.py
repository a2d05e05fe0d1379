"""Per-sample gradients and the rank of their Gram matrix: by hand and against a loop of backward passes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from plasticity_lightning.measures.ntk import gradient_gram, ntk_rank, per_sample_gradients
from plasticity_lightning.measures.rank import effective_rank


def half_square(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return 0.5 * (output - target).square().sum()


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))


def test_a_linear_layer_by_hand():
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.zeros(3, 1)
    # g_i = (w x_i - y_i) x_i: residuals 1, 2, 3 -> (1, 0), (0, 2), (3, 3)
    g = per_sample_gradients(layer, x, y, half_square)
    assert g.tolist() == [[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]
    assert gradient_gram(g).tolist() == [[1.0, 0.0, 3.0], [0.0, 4.0, 6.0], [3.0, 6.0, 18.0]]
    h = 0.5**0.5
    expected = torch.tensor([[1.0, 0.0, h], [0.0, 1.0, h], [h, h, 1.0]]).double()
    torch.testing.assert_close(gradient_gram(g, cosine=True), expected, rtol=1e-6, atol=1e-7)
    # the first two samples alone: eigenvalues 1 and 4, p = 0.2, 0.8: exp(0.2 ln 5 + 0.8 ln 1.25) = 5^0.2 * 1.25^0.8
    assert ntk_rank(layer, x[:2], y[:2], half_square) == pytest.approx(5**0.2 * 1.25**0.8)
    assert ntk_rank(layer, x[:2], y[:2], half_square, cosine=True) == pytest.approx(2.0)


def test_samples_without_gradient_give_rank_zero_and_no_nan():
    layer = nn.Linear(2, 1, bias=False)
    x = torch.ones(3, 2)
    fitted = layer(x).detach()
    assert ntk_rank(layer, x, fitted, half_square) == 0.0
    assert ntk_rank(layer, x, fitted, half_square, cosine=True) == 0.0


def test_gradients_equal_a_loop_of_backward_passes():
    net = network()
    net(torch.randn(20, 3))  # running statistics that are not those of the start
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 1, 0, 1, 0])
    g = per_sample_gradients(net, x, y, functional.cross_entropy)
    assert torch.allclose(g, per_sample_gradients(net, x, y, functional.cross_entropy, chunk_size=2))
    net.eval()
    for i in range(6):
        net.zero_grad()
        functional.cross_entropy(net(x[i : i + 1]), y[i : i + 1]).backward()
        expected = torch.cat([p.grad.flatten() for p in net.parameters()])
        torch.testing.assert_close(g[i], expected, rtol=1e-5, atol=1e-7)


def test_named_parameters_only():
    net = network()
    x, y = torch.randn(4, 3), torch.randn(4, 2)
    everything = per_sample_gradients(net, x, y, half_square)
    assert torch.equal(per_sample_gradients(net, x, y, half_square, ["4.bias"]), everything[:, -2:])
    net[0].requires_grad_(False)
    assert per_sample_gradients(net, x, y, half_square).shape[1] == everything.shape[1] - 16
    with pytest.raises(ValueError, match=r"0\.weight"):
        per_sample_gradients(net, x, y, half_square, ["0.weight"])
    with pytest.raises(ValueError, match="4 and 3"):
        per_sample_gradients(net, x, y[:3], half_square)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_the_rank_is_bounded_and_ignores_order_and_the_scale_of_the_loss(seed, scale):
    net = network(seed)
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    for cosine in (False, True):
        value = ntk_rank(net, x, y, half_square, cosine)
        assert 1 - 1e-9 <= value <= 5 + 1e-9
        order = torch.randperm(5)
        assert ntk_rank(net, x[order], y[order], half_square, cosine) == pytest.approx(float(value), rel=1e-4)
        scaled = ntk_rank(net, x, y, lambda o, t: scale * half_square(o, t), cosine)
        assert scaled == pytest.approx(float(value), rel=1e-4)
    # the singular values of the gradients, squared, are the eigenvalues of the Gram matrix
    s = torch.linalg.svdvals(per_sample_gradients(net, x, y, half_square).double())
    assert ntk_rank(net, x, y, half_square) == pytest.approx(float(effective_rank(s**2)), rel=1e-5)


def test_the_live_network_is_not_touched():
    net = network().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    ntk_rank(net, torch.randn(4, 3, generator=torch.Generator()), torch.zeros(4, 2), half_square)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert all(p.grad is None for p in net.parameters())
