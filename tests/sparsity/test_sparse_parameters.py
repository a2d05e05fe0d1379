"""The masked weights of one optimiser in a plain training loop: property over models, optimisers and methods."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from plasticity_lightning.sparsity.initial import initial_masks
from plasticity_lightning.sparsity.masks import count
from plasticity_lightning.sparsity.methods import make_method
from plasticity_lightning.sparsity.plan import resolve
from plasticity_lightning.sparsity.selection import select_parameters
from plasticity_lightning.sparsity.sparse_parameters import SparseParameters

from . import reference

OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "plain": lambda p: torch.optim.SGD(p, 0.1),
    "adam": lambda p: torch.optim.Adam(p, 1e-2, weight_decay=1e-2),
    "amsgrad": lambda p: torch.optim.AdamW(p, 1e-2, amsgrad=True, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-2, momentum=0.9, centered=True),
}


def network(seed, widths=(6, 9, 7, 3)):
    torch.manual_seed(seed)
    layers = [m for i, o in pairwise(widths) for m in (nn.Linear(i, o), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


def train(net, optimizer, sparse, steps, seed=0, check=None):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(8, net[0].in_features, generator=generator)
        optimizer.zero_grad()
        (net(x) - x.sum(1, keepdim=True).sin()).square().mean().backward()
        sparse.before_step()
        optimizer.step()
        update = sparse.after_step()
        if check is not None:
            check(update)


def sparse_parameters(net, optimizer, method="granet", total=30, moments="update", **options):
    options = {"sparsity": 0.8, "every": 3, "mask_moments": moments, **options}
    sparse = SparseParameters(optimizer, select_parameters(net), resolve(make_method(method, **options), total, None))
    sparse.initialise()
    return sparse


@settings(max_examples=20)
@given(
    st.integers(0, 1000),
    st.lists(st.integers(3, 12), min_size=2, max_size=5),
    st.sampled_from(sorted(OPTIMISERS)),
    st.sampled_from(["granet", "granet_s2s", "gmp", "rigl", "set", "snip", "static_erk"]),
    st.sampled_from(["update", "step"]),
)
def test_weights_live_where_their_masks_do_after_every_step(seed, widths, optimiser, method, moments):
    net = network(seed, widths)
    optimizer = OPTIMISERS[optimiser](net.parameters())
    sparse = sparse_parameters(net, optimizer, method, moments=moments, total=20)

    def check(update):
        for name, p in sparse.parameters.items():
            if update is None:  # the zeros are the mask's, but for grown weights that have had no gradient yet
                assert not p[~sparse.masks[name]].any()
                assert p[sparse.masks[name] & (p.grad != 0)].all()
            else:  # what has just grown starts at 0
                assert not p[~update.kept[name]].any()
                assert not (update.kept[name] & ~sparse.masks[name]).any()
            if update is not None or moments == "step":
                for value in optimizer.state[p].values():
                    if isinstance(value, torch.Tensor) and value.shape == p.shape:
                        assert not value[~sparse.masks[name]].any()

    train(net, optimizer, sparse, 20, check=check)
    total = sum(p.numel() for p in sparse.parameters.values())
    living = sum(count(mask) for mask in sparse.masks.values())
    assert abs(living - 0.2 * total) < 1


def test_granet_in_training_follows_the_slow_reference_step_by_step():
    net = network(0)
    optimizer = OPTIMISERS["sgd"](net.parameters())
    sparse = sparse_parameters(net, optimizer, total=30)  # events 3, 6, ..., pruning until k1 = 5
    expected = {name: np.ones(p.shape, int) for name, p in sparse.parameters.items()}
    before = {}

    def check(update):
        nonlocal expected
        step = sparse.step
        if update is not None:
            if step // 3 <= 5:
                sparsity = reference.target_sparsity(step // 3, 0, 5, 0, 0.8)
                expected = reference.prune_global(before["weights"], expected, sparsity)
            rate = 0.005 + (0.5 - 0.005) * (1 + np.cos(np.pi * step / 30)) / 2
            expected = {
                name: reference.regenerate(before["weights"][name], expected[name], rate, before["gradients"][name])
                for name in expected
            }
        for name, mask in sparse.masks.items():
            assert np.array_equal(mask.numpy().astype(int), expected[name]), (step, name)

    def remember(opt, args, kwargs):  # after the step, before the masks change
        before["weights"] = {n: (p * sparse.masks[n]).detach().numpy().copy() for n, p in sparse.parameters.items()}
        before["gradients"] = {n: p.grad.numpy().copy() for n, p in sparse.parameters.items()}

    optimizer.register_step_post_hook(remember)
    train(net, optimizer, sparse, 29, check=check)
    assert sparse.n_updates == 9


@pytest.mark.parametrize("optimiser", ["sgd", "amsgrad"])
def test_masking_moments_at_updates_trains_the_same_weights_as_after_every_step(optimiser):
    results = []
    for moments in ("update", "step"):
        net = network(3)
        optimizer = OPTIMISERS[optimiser](net.parameters())
        train(net, optimizer, sparse_parameters(net, optimizer, moments=moments), 30)
        results.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(*results)


def test_the_gradient_of_growth_is_the_one_before_the_optimiser_changes_it():
    net = network(1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    sparse = sparse_parameters(net, optimizer, "rigl", every=1, prune_rate_schedule="constant")
    gradients = {
        name: torch.rand(p.shape, generator=torch.Generator().manual_seed(2)) for name, p in sparse.parameters.items()
    }
    for name, p in sparse.parameters.items():
        p.grad = gradients[name].clone()
    sparse.before_step()
    for p in sparse.parameters.values():
        p.grad.zero_()  # as clipping by value or Nesterov's in-place addition might
    old = dict(sparse.masks)
    sparse.after_step()
    for name, p in sparse.parameters.items():
        expected = reference.regenerate(
            (p.detach() * old[name]).numpy(), old[name].numpy().astype(int), 0.3, gradients[name].numpy()
        )
        assert np.array_equal(sparse.masks[name].numpy().astype(int), expected)


def test_snip_scores_are_summed_over_batches_and_the_steps_taken_back():
    net = network(5)
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = OPTIMISERS["adam"](net.parameters())
    plan = resolve(make_method("snip", sparsity=0.5, score_batches=3), None, None)
    sparse = SparseParameters(optimizer, select_parameters(net), plan)
    sparse.initialise()
    sums = {}

    def add(opt, args, kwargs):
        for name, p in sparse.parameters.items():
            sums[name] = sums.get(name, 0) + p.grad.clone()

    handle = optimizer.register_step_pre_hook(add)
    train(net, optimizer, sparse, 3)
    handle.remove()
    assert sparse.step == 0
    assert optimizer.state == {}
    scores = {name: (start[name] * sums[name]).abs() for name in sums}
    expected = reference.prune_global(
        {n: s.numpy() for n, s in scores.items()}, {n: np.ones(s.shape, int) for n, s in scores.items()}, 0.5
    )
    for name, mask in sparse.masks.items():
        assert np.array_equal(mask.numpy().astype(int), expected[name])
        assert torch.equal(net.get_parameter(name), start[name] * mask)


def test_state_round_trip_is_bitwise():
    results = []
    for interrupted in (False, True):
        net = network(2)
        optimizer = OPTIMISERS["adam"](net.parameters())
        sparse = sparse_parameters(net, optimizer, "set")
        train(net, optimizer, sparse, 13)
        if interrupted:
            state = sparse.state_dict()
            sparse = fresh(net, optimizer)
            sparse.load_state_dict(state)
        train(net, optimizer, sparse, 17, seed=1)
        results.append((torch.cat([p.detach().flatten() for p in net.parameters()]), sparse.state_dict()))
    assert torch.equal(results[0][0], results[1][0])
    for name in results[0][1]["masks"]:
        assert torch.equal(results[0][1]["ever_active"][name], results[1][1]["ever_active"][name])
    assert results[0][1]["flops"] == results[1][1]["flops"]


def test_a_budget_outlasts_ablation_and_a_checkpoint():
    net = network(2, (6, 9, 7, 3))
    optimizer = OPTIMISERS["sgd"](net.parameters())
    sparse = sparse_parameters(net, optimizer, "srigl", sparsity=0.6, ablate_below=1.0)
    budgets = dict(sparse.budgets)
    ablated = []
    train(net, optimizer, sparse, 20, check=lambda update: ablated.append(update and sum(update.ablated.values())))
    assert any(ablated)
    for name, mask in sparse.masks.items():
        fan_ins = mask.sum(1)
        n_active = int((fan_ins > 0).sum())
        assert len(fan_ins[fan_ins > 0].unique()) == 1
        assert budgets[name] - n_active < count(mask) <= budgets[name]
    again = fresh(net, optimizer)
    again.load_state_dict(sparse.state_dict())
    assert again.budgets == budgets != again.living
    old = {key: value for key, value in sparse.state_dict().items() if key != "budgets"}  # of a version without budgets
    again.load_state_dict(old)
    assert again.budgets == again.living


def fresh(net, optimizer):
    plan = resolve(make_method("set", sparsity=0.8, every=3), 30, None)
    return SparseParameters(optimizer, select_parameters(net), plan)


def test_state_of_another_network_is_refused():
    net, other = network(0), network(0, (6, 5, 3))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    state = sparse_parameters(other, torch.optim.SGD(other.parameters(), 0.1)).state_dict()
    with pytest.raises(ValueError, match=r"other parameters: \['4\.weight'\]"):
        fresh(net, optimizer).load_state_dict(state)


def test_a_layer_frozen_meanwhile_is_left_alone():
    net = network(4)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    sparse = sparse_parameters(net, optimizer, "rigl", every=1)
    net[0].weight.requires_grad_(False)
    before = sparse.masks["0.weight"].clone()
    train(net, optimizer, sparse, 3)
    assert torch.equal(before, sparse.masks["0.weight"])
    assert sparse.n_updates == 3


@pytest.mark.parametrize("moments", ["update", "step"])
@pytest.mark.parametrize("optimiser", ["sgd", "adam", "rmsprop"])
def test_gradients_that_are_not_finite_leave_absent_weights_and_grown_moments_at_zero(optimiser, moments):
    net = network(1)
    optimizer = OPTIMISERS[optimiser](net.parameters())
    sparse = sparse_parameters(net, optimizer, "set", every=4, moments=moments)  # random growth: anywhere
    for step in range(1, 13):
        for name, p in sparse.parameters.items():
            p.grad = torch.ones_like(p)
            if step in (2, 7):
                p.grad[~sparse.masks[name]] = float("nan") if step == 2 else float("inf")
        sparse.before_step()
        optimizer.step()
        update = sparse.after_step()
        for name, p in sparse.parameters.items():
            assert (p[~sparse.masks[name]] == 0).all()
            assert p.isfinite().all()
            if update is not None:
                for value in optimizer.state[p].values():
                    if isinstance(value, torch.Tensor) and value.shape == p.shape:
                        assert (value[~update.kept[name]] == 0).all()


@pytest.mark.parametrize("method", ["granet", "gmp", "rigl", "set"])
def test_a_layer_that_no_batch_uses_is_masked_like_the_others(method):
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.expert = nn.Linear(6, 20), nn.Linear(20, 20)

        def forward(self, x):
            return self.used(x)

        def __getitem__(self, i):
            return self.used

    torch.manual_seed(0)
    net = Unused()
    optimizer = OPTIMISERS["sgd"](net.parameters())
    sparse = sparse_parameters(net, optimizer, method)
    told = []
    train(net, optimizer, sparse, 30, check=lambda update: told.extend(update.unused if update else ()))
    for name, mask in sparse.masks.items():
        assert (sparse.parameters[name][~mask] == 0).all()
    assert sum(count(mask) for mask in sparse.masks.values()) == 104  # a fifth of 120 + 400
    assert set(told) == ({"expert.weight"} if method in ("granet", "rigl") else set())


def test_momentum_growth_reads_the_optimiser_and_says_what_it_lacks():
    net = network(0)
    optimizer = OPTIMISERS["adam"](net.parameters())
    sparse = sparse_parameters(net, optimizer, "rigl", grow_by="momentum")
    train(net, optimizer, sparse, 9)
    assert sparse.n_updates == 3
    plain = torch.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(ValueError, match="momentum_buffer or exp_avg"):
        train(net, plain, sparse_parameters(net, plain, "rigl", grow_by="momentum"), 3)


def test_initial_masks_exact_and_bernoulli():
    weights = {"a": torch.randn(50, 40), "b": torch.randn(10, 50)}
    method = make_method("static_erk", sparsity=0.9)
    exact = initial_masks(method, weights, generator=torch.Generator().manual_seed(0))
    assert sum(count(mask) for mask in exact.values()) == 250
    method = make_method("static_erk", sparsity=0.9, bernoulli=True)
    drawn = initial_masks(method, weights, generator=torch.Generator().manual_seed(0))
    assert 200 < sum(count(mask) for mask in drawn.values()) < 300
    kept = initial_masks(make_method("static_erk", init_by="nonzero"), {"a": torch.tensor([[0.0, 1.0]])})
    assert kept["a"].tolist() == [[False, True]]
