"""Local rules on readouts: single steps by hand, fixed points, and what the specification warns of."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.readouts.consolidation import (
    consolidate,
    onset_tag,
    remember_tag,
    replay_tags,
    tag_buffer,
)
from plasticity_lightning.readouts.eligibility import eligibility_state, eligibility_step, eligibility_traces
from plasticity_lightning.readouts.lms import lms_step
from plasticity_lightning.readouts.modulation import Modulation, attention_gate, modulated_error
from plasticity_lightning.readouts.rls import rls_state, rls_step
from plasticity_lightning.readouts.three_factor import three_factor_state, three_factor_step


def test_lms_step_by_hand():
    # |x|^2 = 5 exceeds power 1; error 2 - (1*1 + 0*2) = 1, so dw = 0.5 * 1 * x / 5 = (0.1, 0.2)
    weight, output = lms_step(
        torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 2.0]), torch.tensor([2.0]), torch.tensor([1.0]), eta=0.5
    )
    assert output.tolist() == [1.0]
    assert weight[0].tolist() == pytest.approx([1.1, 0.2])
    # below the floor the step is that of plain LMS: |x|^2 = 0.25 < 1, dw = 0.5 * 1 * 0.5 / 1
    weight, _ = lms_step(torch.zeros(1, 1), torch.tensor([0.5]), torch.tensor([1.0]), torch.tensor([1.0]), eta=0.5)
    assert weight.item() == pytest.approx(0.25)


def test_a_closed_gate_changes_nothing():
    weight = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    x, target = torch.ones(2, 4), torch.ones(2, 3)
    after, _ = lms_step(weight, x, target, torch.zeros(2, 1))
    assert torch.equal(after, weight)
    state = rls_state(weight)
    moved, _ = rls_step(state, x, target, torch.tensor([0.0, 1.0]))
    assert torch.equal(moved.weight[0], state.weight[0])
    assert torch.equal(moved.inverse[0], state.inverse[0])
    assert not torch.equal(moved.weight[1], state.weight[1])


def test_lagged_eligibility_returns_the_input_of_delay_samples_ago():
    x = torch.arange(1.0, 6.0)[:, None]
    state = eligibility_state(x[0], "lag", 2)
    seen = []
    for sample in x:
        state, trace = eligibility_step(state, sample)
        seen.append(trace.item())
    assert seen == [0.0, 0.0, 1.0, 2.0, 3.0]


def test_pole_of_one_delay_by_hand():
    # keep = exp(-1/4); after two samples of 1 the trace is 1 - keep^2
    state = eligibility_state(torch.zeros(1), "exp1", 4)
    for _ in range(2):
        state, trace = eligibility_step(state, torch.ones(1))
    assert trace.item() == pytest.approx(1 - math.exp(-0.5))


@given(kind=st.sampled_from(["lag", "exp1", "exp2"]), delay=st.integers(0, 5), cut=st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_traces_of_a_trial_are_the_steps_of_its_samples_and_may_be_cut(kind, delay, cut):
    x = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(delay))
    state = eligibility_state(x[:, 0], kind, delay)
    slow = []
    stepped = state
    for t in range(9):
        stepped, trace = eligibility_step(stepped, x[:, t])
        slow.append(trace)
    after, first = eligibility_traces(state, x[:, :cut])
    end, second = eligibility_traces(after, x[:, cut:])
    assert torch.equal(torch.cat([first, second], 1), torch.stack(slow, 1))
    assert torch.equal(end.memory, stepped.memory)


def test_three_factor_step_by_hand():
    # delay 1: E is the previous input (2, 0), |E|^2 = 4; error 1 - w.E = 1 - 0.5*2 = 0; so make the target 3: error 2, dw = 0.3*2*E/4
    state = three_factor_state(torch.tensor([[0.5, 0.0]]), "lag", 1)
    first = torch.tensor([2.0, 0.0])
    state, output = three_factor_step(state, first, torch.tensor([9.0]), torch.tensor([0.0]))
    assert output.item() == 1.0
    state, _ = three_factor_step(state, torch.zeros(2), torch.tensor([3.0]), torch.tensor([1.0]))
    assert state.weight[0].tolist() == pytest.approx([0.5 + 0.3 * 2 * 2 / 4, 0.0])


@given(delay=st.integers(1, 4))
@settings(max_examples=4, deadline=None)
def test_the_lag_makes_the_readout_run_ahead_of_its_target(delay):
    """One-hot time code: w learns target(t) at x(t - delay), so the output is the target `delay` samples early."""
    x, target = torch.eye(10), torch.zeros(10, 1)
    target[6] = 1.0
    state = three_factor_state(torch.zeros(1, 10), "lag", delay)
    for _ in range(40):
        state = state._replace(eligibility=eligibility_state(x[0], "lag", delay))
        outputs = []
        for t in range(10):
            state, output = three_factor_step(state, x[t], target[t], torch.ones(1), eta=0.5)
            outputs.append(output.item())
    assert outputs[6 - delay] == pytest.approx(1.0, abs=1e-3)
    assert sum(abs(o) for o in outputs) == pytest.approx(1.0, abs=1e-2)


def test_step_normalisation_keeps_large_inputs_stable_where_a_fixed_step_diverges():
    """Right after a cue |x|^2 is 9 times its mean.

    Eta 0.3 without the max() multiplies the error by 1 - 2.7 each time.
    """
    x, target, gate = 3 * torch.ones(1), torch.ones(1), torch.ones(1)
    normalised, fixed = torch.zeros(1, 1), torch.zeros(1, 1)
    for _ in range(200):
        normalised, _ = lms_step(normalised, x, target, gate, eta=0.3, power=1.0)
        fixed = fixed + 0.3 * (target - fixed[:, 0] * x)[:, None] * x
    assert normalised.item() == pytest.approx(1 / 3)
    assert not math.isfinite(fixed.item())


@pytest.mark.parametrize("eta", [0.1, 0.3, 0.8])
def test_lms_goes_to_the_least_squares_solution_of_consistent_data(eta):
    generator = torch.Generator().manual_seed(1)
    x, true = torch.randn(30, 5, generator=generator).double(), torch.randn(2, 5, generator=generator).double()
    weight = torch.zeros(2, 5, dtype=torch.float64)
    for _ in range(600):
        for sample in x:
            weight, _ = lms_step(weight, sample, true @ sample, torch.ones(1), eta=eta, power=5.0)
    assert torch.allclose(weight, true, atol=1e-6)


def test_rls_is_ridge_on_all_samples_so_far():
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(40, 6, generator=generator).double(), torch.randn(40, 3, generator=generator).double()
    state = rls_state(torch.zeros(3, 6), alpha=0.5)
    for sample, target in zip(x, y, strict=True):
        state, _ = rls_step(state, sample, target, torch.ones(()))
    ridge = torch.linalg.solve(x.T @ x + 0.5 * torch.eye(6, dtype=torch.float64), x.T @ y).T
    assert torch.allclose(state.weight, ridge, atol=1e-10)
    assert torch.allclose(state.inverse @ (x.T @ x + 0.5 * torch.eye(6, dtype=torch.float64)), torch.eye(6).double())


def test_forgetting_weighs_samples_by_their_age():
    """x = 1: the weight is the mean of the targets with weights lambda^age; alpha is discounted like a sample."""
    state, forgetting, targets = rls_state(torch.zeros(1, 1), alpha=1.0), 0.9, [1.0, 0.0, 2.0, 5.0]
    for target in targets:
        state, _ = rls_step(state, torch.ones(1), torch.tensor([target]), torch.ones(()), forgetting)
    ages = [forgetting**k for k in (3, 2, 1, 0)]
    expected = sum(a * t for a, t in zip(ages, targets, strict=True)) / (sum(ages) + forgetting**4)
    assert state.weight.item() == pytest.approx(expected)


def test_forgetting_blows_up_in_float32_and_not_in_float64():
    """Inputs that vary in few directions only: P grows without bound in the others, and rounding makes it indefinite.

    That is why the state is float64 and symmetrised.
    """
    generator = torch.Generator().manual_seed(3)
    basis = torch.randn(2, 30, generator=generator)

    def run(dtype):
        p, w = torch.eye(30, dtype=dtype), torch.zeros(30, dtype=dtype)
        inputs = torch.Generator().manual_seed(4)
        for _ in range(4000):
            x = (torch.randn(2, generator=inputs) @ basis).to(dtype)
            px = p @ x
            g = px / (0.97 + x @ px)
            w = w + (1 - w @ x) * g
            p = (p - torch.outer(g, px)) / 0.97
        return float(torch.linalg.eigvalsh(p.double()).min()) if bool(p.isfinite().all()) else -math.inf

    assert run(torch.float32) < 0
    state = rls_state(torch.zeros(1, 30))
    inputs = torch.Generator().manual_seed(4)
    for _ in range(1000):
        x = torch.randn(2, generator=inputs) @ basis
        state, _ = rls_step(state, x, torch.ones(1), torch.ones(()), 0.97)
    assert float(torch.linalg.eigvalsh(state.inverse).min()) > 0
    assert bool(state.weight.isfinite().all())


def test_published_gain_quirk_moves_by_the_old_inverse():
    # P = 1, x = 2: g = 2/(1+4) = 0.4, the quirk takes P x = 2
    for stale, moved in ((False, 0.4), (True, 2.0)):
        state, _ = rls_step(
            rls_state(torch.zeros(1, 1)), torch.tensor([2.0]), torch.ones(1), torch.ones(()), stale_gain=stale
        )
        assert state.weight.item() == pytest.approx(moved)


def test_consolidation_by_hand():
    # prediction 0.5; change 0.2 * (1 - 0.5) * T / (4 + 0.001), and 0.2 * (0 - 0) for the other readout
    weight, predicted = consolidate(
        torch.tensor([[0.25, 0.0], [0.0, 0.0]]), torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0]), torch.ones(())
    )
    assert predicted.tolist() == [0.5, 0.0]
    assert weight.flatten().tolist() == pytest.approx([0.25 + 0.2 * 0.5 * 2 / 4.001, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_consolidation_converges_to_the_probability_also_0_and_1(p):
    weight, tag = torch.zeros(2, 3, dtype=torch.float64), torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    outcomes = torch.tensor([1.0] * round(10 * p) + [0.0] * round(10 * (1 - p)), dtype=torch.float64)
    history = []
    for _ in range(100):
        for o in outcomes:
            weight, predicted = consolidate(weight, tag, torch.stack([o, 1 - o]), torch.ones(()), eta=0.01)
            history.append(predicted)
    mean = torch.stack(history[-10:]).mean(0)
    assert mean.tolist() == pytest.approx([p, 1 - p], abs=0.02)


def test_replay_of_one_tag_is_as_many_single_updates():
    weight, tag, outcome = torch.zeros(1, 2, 3), torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    buffer = remember_tag(tag_buffer(weight, 4), tag, outcome, torch.ones(1))
    replayed, _ = replay_tags(weight, buffer, torch.ones(1), eta=0.05, updates=3)
    single = weight
    for _ in range(3):
        single, _ = consolidate(single, tag, outcome, torch.ones(1), eta=0.05)
    assert torch.equal(replayed, single)


def test_replay_goes_through_the_newest_tags_first():
    weight = torch.zeros(1, 1, 3)
    buffer = tag_buffer(weight, 2)
    for i in range(3):  # the third pushes out the first
        buffer = remember_tag(buffer, torch.eye(3)[None, i], torch.ones(1, 1), torch.ones(1))
    once, _ = replay_tags(weight, buffer, torch.ones(1), eta=1.001, updates=1)
    both, _ = replay_tags(weight, buffer, torch.ones(1), eta=1.001, updates=2)
    assert once[0, 0].tolist() == pytest.approx([0.0, 0.0, 1.0])
    assert both[0, 0].tolist() == pytest.approx([0.0, 1.0, 1.0])


def test_omissions_leave_weights_and_buffer_alone():
    weight = torch.ones(1, 2, 3)
    buffer = remember_tag(tag_buffer(weight, 2), torch.ones(1, 3), torch.ones(1, 2), torch.zeros(1))
    assert buffer.filled.item() == 0
    after, _ = replay_tags(weight, buffer, torch.ones(1))
    assert torch.equal(after, weight)


def test_tag_holds_only_samples_before_the_onset():
    time = torch.arange(0.0, 50.0, 5.0)
    x = time[None, :, None].clone()
    tag = onset_tag(x, time, torch.tensor([30.0]))
    assert tag.item() == pytest.approx((10 + 15 + 20 + 25) / 4)
    after = x.clone()
    after[:, 6:] = 1e6  # from the onset on
    assert torch.equal(onset_tag(after, time, torch.tensor([30.0])), tag)
    assert onset_tag(x, time, torch.tensor([-1.0])).item() == 0


def test_gates_open_and_close_where_they_say():
    time, outcome = torch.arange(-100.0, 1200.0, 20.0), torch.tensor([300.0, -1.0])

    def open_at(kind, lane):
        gate = attention_gate(Modulation(kind), time, outcome)[lane]
        return time[gate > 0].tolist()

    assert open_at("cue_to_outcome", 0)[::17] == [0.0, 340.0]
    assert open_at("cue_to_outcome", 0)[-1] == 360.0  # outcome + 60
    assert open_at("cue_to_outcome", 1)[-1] == 980.0  # an omission: the whole window
    assert (open_at("around_outcome", 0)[0], open_at("around_outcome", 0)[-1]) == (180.0, 420.0)
    assert open_at("around_outcome", 1) == []
    assert (open_at("cue_to_end", 0)[0], open_at("cue_to_end", 0)[-1]) == (0.0, 980.0)
    assert len(open_at("whole_trial", 0)) == len(time) == len(open_at("always", 1))


@pytest.mark.parametrize(
    ("kind", "passed"),
    [("signed", [-2, 0, 3]), ("positive", [0, 0, 3]), ("negative", [-2, 0, 0]), ("unsigned", [2, 0, 3]), ("sign", [-1, 0, 1])],
)  # fmt: skip
def test_what_passes_of_an_error(kind, passed):
    error = torch.tensor([-2.0, 0.0, 3.0])
    assert modulated_error(Modulation(error=kind, gain=2.0), error).tolist() == [2.0 * p for p in passed]


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Modulation(gate="cue"),
        lambda: Modulation(error="up"),
        lambda: Modulation(gain=-1),
        lambda: Modulation(after_ms=math.nan),
        lambda: Modulation(window_ms=0),
        lambda: eligibility_state(torch.zeros(2), "box"),
        lambda: eligibility_state(torch.zeros(2), "lag", -1),
        lambda: rls_state(torch.zeros(1, 2), alpha=0),
        lambda: tag_buffer(torch.zeros(1, 2), 0),
        lambda: replay_tags(torch.zeros(1, 2), tag_buffer(torch.zeros(1, 2)), torch.ones(()), updates=0),
        lambda: onset_tag(torch.zeros(1, 2, 3), torch.zeros(2), torch.zeros(1), 0),
    ],
)
def test_bad_values_are_refused(bad):
    with pytest.raises(ValueError, match="must"):
        bad()
