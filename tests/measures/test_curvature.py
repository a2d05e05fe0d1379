"""Curvature: quadratics by hand and the full Hessian of small networks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from plasticity_lightning.measures.curvature import (
    hessian_operator,
    hessian_rank,
    lanczos,
    sharpness,
    top_eigenpair,
)

seeds = st.integers(0, 10_000)


class Diagonal(nn.Module):
    """Output w, so that a loss 0.5 sum_i d_i w_i^2 has the Hessian diag(d)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w


def quadratic(output: torch.Tensor, diagonal: torch.Tensor) -> torch.Tensor:
    return 0.5 * (diagonal * output**2).sum()


def full_hessian(net: nn.Module, x: torch.Tensor, y: torch.Tensor, loss) -> torch.Tensor:
    names, values = zip(*[(n, p.detach()) for n, p in net.named_parameters()], strict=True)
    sizes = [v.numel() for v in values]

    def of_flat(flat: torch.Tensor) -> torch.Tensor:
        parts = {n: p.view_as(v) for n, p, v in zip(names, flat.split(sizes), values, strict=True)}
        return loss(torch.func.functional_call(net, parts, (x,)), y)

    return torch.autograd.functional.hessian(of_flat, torch.cat([v.flatten() for v in values]))


def tanh_net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()


def test_a_quadratic_by_hand():
    d = torch.tensor([1.0, 5.0, 2.0])
    pair = sharpness(Diagonal(3), torch.zeros(1), d, quadratic, iterations=40)
    assert pair.value == pytest.approx(5.0)
    assert pair.vector.abs().tolist() == pytest.approx([0.0, 1.0, 0.0], abs=1e-5)
    assert pair.residual < 1e-4
    # eigenvalues above 1 % of 5 = 0.05: all three; above 30 % = 1.5: two; above 50 %: one
    for threshold, count in ((0.01, 3.0), (0.3, 2.0), (0.5, 1.0)):
        assert hessian_rank(Diagonal(3), torch.zeros(1), d, quadratic, threshold) == pytest.approx(count, abs=1e-4)


def test_the_top_eigenvalue_is_the_largest_and_not_the_largest_in_size():
    d = torch.tensor([1.0, -9.0, 2.0])
    assert sharpness(Diagonal(3), torch.zeros(1), d, quadratic, iterations=60).value == pytest.approx(2.0, rel=1e-4)
    assert hessian_rank(Diagonal(3), torch.zeros(1), d, quadratic, 0.1) == pytest.approx(2.0, abs=1e-4)
    negative = sharpness(Diagonal(2), torch.zeros(1), torch.tensor([-1.0, -4.0]), quadratic, iterations=60)
    assert negative.value == pytest.approx(-1.0, rel=1e-4)
    assert hessian_rank(Diagonal(2), torch.zeros(1), torch.tensor([-1.0, -4.0]), quadratic) == 0.0


def test_a_flat_loss_has_no_curvature():
    pair = sharpness(Diagonal(3), torch.zeros(1), torch.ones(3), lambda o, t: (o * t).sum())
    assert pair.value == 0.0
    assert pair.residual == 0.0
    assert hessian_rank(Diagonal(3), torch.zeros(1), torch.zeros(3), quadratic) == 0.0


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_products_sharpness_and_rank_agree_with_the_full_hessian(seed):
    net = tanh_net(seed)
    x, y = torch.randn(8, 2).double(), torch.randn(8, 1).double()
    hessian = full_hessian(net, x, y, functional.mse_loss)
    eigenvalues = torch.linalg.eigvalsh(hessian)
    operator = hessian_operator(functional.mse_loss(net(x), y), list(net.parameters()))
    v = torch.randn(len(hessian)).double()
    torch.testing.assert_close(operator(v), hessian @ v)
    pair = sharpness(net, x, y, functional.mse_loss, iterations=300)
    assert pair.value <= eigenvalues[-1] * (1 + 1e-9)
    assert pair.value == pytest.approx(float(eigenvalues[-1]), rel=0.01)
    # an eigenvalue lies within the residual of the value
    assert (eigenvalues - pair.value).abs().min() <= pair.residual * pair.value.abs() + 1e-9
    ritz, share = lanczos(operator, v, steps=len(v))
    assert ritz[-1] == pytest.approx(float(eigenvalues[-1]), rel=1e-6)
    assert share.sum() == pytest.approx(1.0)
    # moments of the quadrature are those of the spectrum as seen from v: sum w t^k = v H^k v / v v
    for power in (1, 2, 3):
        expected = v @ torch.linalg.matrix_power(hessian, power) @ v / (v @ v)
        assert (share * ritz**power).sum() == pytest.approx(float(expected), rel=1e-6, abs=1e-9)


def test_the_rank_is_the_mean_over_probes_of_the_exact_count():
    net = tanh_net(3)
    x, y = torch.randn(16, 2).double(), torch.randn(16, 1).double()
    eigenvalues = torch.linalg.eigvalsh(full_hessian(net, x, y, functional.mse_loss))
    expected = int((eigenvalues > 0.01 * eigenvalues[-1]).sum())
    estimate = hessian_rank(net, x, y, functional.mse_loss, probes=200)
    assert estimate == pytest.approx(expected, rel=0.1)
    assert 0 <= estimate <= len(eigenvalues)


@settings(max_examples=15, deadline=None)
@given(seeds, st.floats(0.01, 100))
def test_scaling_the_loss_scales_sharpness_and_keeps_the_rank(seed, scale):
    net = tanh_net(seed)
    x, y = torch.randn(6, 2).double(), torch.randn(6, 1).double()

    def scaled(output, target):
        return scale * functional.mse_loss(output, target)

    value = sharpness(net, x, y, functional.mse_loss, iterations=10).value
    assert sharpness(net, x, y, scaled, iterations=10).value == pytest.approx(scale * float(value), rel=1e-6)
    assert hessian_rank(net, x, y, scaled, probes=2) == pytest.approx(
        float(hessian_rank(net, x, y, functional.mse_loss, probes=2)), rel=1e-6
    )


def test_the_power_iteration_on_an_explicit_matrix():
    matrix = torch.diag(torch.tensor([4.0, -3.0, 1.0]))
    pair = top_eigenpair(lambda v: matrix @ v, 3, 100, torch.Generator().manual_seed(0))
    assert pair.value == pytest.approx(4.0)
    with pytest.raises(ValueError, match="iterations=0"):
        top_eigenpair(lambda v: v, 3, 0, torch.Generator())
    with pytest.raises(ValueError, match="steps=0"):
        lanczos(lambda v: v, torch.ones(2), 0)


def test_lanczos_stops_at_an_invariant_subspace():
    values, shares = lanczos(lambda v: 3.0 * v, torch.ones(5), steps=5)
    assert values.tolist() == pytest.approx([3.0])
    assert shares.tolist() == pytest.approx([1.0])


def test_the_live_network_is_not_touched_and_frozen_ones_are_refused():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    with torch.inference_mode():
        x, y = torch.ones(4, 2), torch.zeros(4, 1)
        sharpness(net, x, y, functional.mse_loss)
        hessian_rank(net, x, y, functional.mse_loss, steps=3, probes=1)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    with pytest.raises(ValueError, match="Sequential requires a gradient"):
        sharpness(net.requires_grad_(False), torch.ones(4, 2), torch.zeros(4, 1), functional.mse_loss)
