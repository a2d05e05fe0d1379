"""The compiled passes against the step functions, sample by sample."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.readouts.modulation import ERRORS, Modulation
from plasticity_lightning.readouts.rls import rls_block_step, rls_state, rls_step
from plasticity_lightning.readouts.three_factor import three_factor_state, three_factor_step
from plasticity_lightning.readouts.trial import three_factor_over_trial


def inputs(seed: int, lanes: int = 2, steps: int = 15, rows: int = 3, n: int = 7):
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(lanes, rows, n, generator=g)
    x = torch.randn(lanes, steps, n, generator=g)
    target = torch.randn(lanes, steps, rows, generator=g)
    gate = (torch.rand(lanes, steps, rows, generator=g) < 0.7).float()
    return weight, x, target, gate


@given(
    seed=st.integers(0, 99),
    kind=st.sampled_from(["lag", "exp1", "exp2"]),
    delay=st.integers(0, 4),
    error=st.sampled_from(list(ERRORS)),
    threads=st.integers(1, 2),
)
@settings(max_examples=25, deadline=None)
def test_three_factor_pass_equals_its_steps(seed, kind, delay, error, threads):
    weight, x, target, gate = (a.double() for a in inputs(seed))
    modulation = Modulation(error=error, gain=0.7)
    state = three_factor_state(weight, kind, delay)
    kept = weight.clone()
    fast, outputs = three_factor_over_trial(state, x, target, gate, 0.3, 5.0, modulation, threads)
    assert torch.equal(weight, kept)  # the given state is not touched
    for t in range(x.shape[1]):
        state, output = three_factor_step(state, x[:, t], target[:, t], gate[:, t], 0.3, 5.0, modulation)
        assert torch.allclose(outputs[:, t], output, atol=1e-10)
    assert torch.allclose(fast.weight, state.weight, atol=1e-10)
    assert torch.allclose(fast.eligibility.memory, state.eligibility.memory, atol=1e-12)


@given(seed=st.integers(0, 99), forgetting=st.sampled_from([1.0, 0.9]))
@settings(max_examples=15, deadline=None)
def test_an_rls_block_equals_its_steps(seed, forgetting):
    weight, x, target, gate = inputs(seed)
    learns = gate[:, 0, 0]
    slow = rls_state(weight)
    fast, outputs = rls_block_step(slow, x, target, learns, forgetting)
    assert torch.allclose(outputs, x.double() @ weight.double().transpose(1, 2))
    for t in range(x.shape[1]):
        slow, _ = rls_step(slow, x[:, t], target[:, t], learns, forgetting)
    assert torch.allclose(fast.weight, slow.weight, atol=1e-9)
    assert torch.allclose(fast.inverse, slow.inverse, atol=1e-9)
    assert torch.equal(fast.inverse, fast.inverse.transpose(1, 2))


def test_the_step_functions_run_where_nothing_compiles():
    weight, x, target, gate = inputs(5)
    half, _ = three_factor_over_trial(
        three_factor_state(weight.bfloat16(), "lag", 2), x.bfloat16(), target.bfloat16(), gate
    )
    assert half.weight.dtype == torch.bfloat16
    full, _ = three_factor_over_trial(three_factor_state(weight, "lag", 2), x, target, gate)
    assert torch.allclose(half.weight.float(), full.weight, atol=0.2)


def test_shapes_that_disagree_are_told():
    weight, x, target, gate = inputs(0)
    with pytest.raises(ValueError, match="needs x"):
        three_factor_over_trial(three_factor_state(weight), x[..., 1:], target, gate)
    with pytest.raises(ValueError, match="needs x"):
        three_factor_over_trial(three_factor_state(weight), x, target[:, :-1], gate)
