"""Presets, options, phases in steps."""

import pytest

from plasticity_lightning.sparsity.methods import PRESETS, make_method, parse_moment
from plasticity_lightning.sparsity.plan import resolve


def test_granet_prunes_by_events_as_published():
    # every 100, epochs 0 to 4 of 8 at 250 steps: k0 = 0, k1 = floor(1000 / 100) = 10
    plan = resolve(make_method("granet", sparsity=0.9, every=100), 2000, 250)
    assert plan.density(50) is None
    assert plan.density(100) == pytest.approx(1 - 0.9 * (1 - 0.9**3))
    assert plan.density(900) == pytest.approx(1 - 0.9 * (1 - 0.1**3))
    assert plan.density(1000) == 1 - 0.9
    assert plan.density(1100) is None
    assert plan.rate(1000) == pytest.approx((0.5 + 0.005) / 2)  # the middle of the cosine
    assert plan.rate(2000) is None  # nothing would train what grows at the end
    assert plan.due(1900)


def test_the_published_code_stops_one_event_short():
    quirk = resolve(make_method("granet", every=100, reach_final=False), 2000, 250)
    assert quirk.density(900) == pytest.approx(1 - 0.9 * (1 - 0.1**3))
    assert quirk.density(1000) is None
    layerwise = resolve(make_method("gmp", every=100, prune="uniform", reach_final=False), 2000, 250)
    assert layerwise.density(1000) == 1 - 0.9


def test_rigl_ends_at_three_quarters():
    plan = resolve(make_method("rigl", every=10), 100, None)
    assert [step for step in range(1, 101) if plan.due(step)] == [10, 20, 30, 40, 50, 60, 70]
    assert plan.density(50) is None
    assert plan.rate(50) == pytest.approx(0.3 * 0.25)  # (1 + cos(2 pi / 3)) / 2


def test_moments_in_three_units():
    assert parse_moment(0.25) == (0.25, "fraction")
    assert parse_moment("1000 steps") == (1000, "steps")
    assert parse_moment("1 epoch") == (1, "epochs")
    plan = resolve(make_method("gmp", every=5, prune_start="1 epoch", prune_end="80 steps"), 100, 20)
    assert (plan.prune_start, plan.prune_end) == (20, 80)
    for wrong in (80, -0.1, "80 batches", "half", "-1 steps"):
        with pytest.raises(ValueError, match="give a fraction"):
            parse_moment(wrong)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_reaches_its_sparsity(name):
    method = make_method(name, sparsity=0.8, every=10)
    plan = resolve(method, 200, 20)
    densities = [plan.density(step) for step in range(1, 201)]
    reached = [d for d in densities if d is not None] or [1 - method.start_sparsity]
    assert reached[-1] == pytest.approx(1.0 if name == "dense" else 0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity=1\.0 must lie in \[0, 1\)"),
        ({"every": 0}, "every=0"),
        ({"grow_by": "gradients"}, "did you mean 'gradient'"),
        ({"prune_rate": 1.5}, r"prune_rate=1\.5"),
        ({"prune": "none"}, "prune='none' never gets"),
        ({"initial_sparsity": 0.95}, "must not exceed"),
        ({"initial_sparsity": 0.5, "allocation": "global"}, "allocation='global' ranks scores"),
        ({"structure": "2:4"}, r"Set it to at least 0\.5"),
        ({"bernoulli": True, "init_by": "magnitude"}, "bernoulli=True needs"),
        ({"prune_end": 80}, "prune_end=80: give a fraction"),
        ({"drop_threshold": -1.0}, "drop_threshold"),
        ({"growth": "gradient"}, "unknown option 'growth'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_method("granet", **options)


def test_unknown_method_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'granet'"):
        make_method("gra_net")


@pytest.mark.parametrize(
    ("options", "length", "message"),
    [
        ({}, (None, None), "unknown or infinite"),
        ({"every": 1000}, (1500, 100), "holds no update with every=1000"),
        ({"prune_end": "300 steps", "every": 10}, (200, 20), "sparsity=0.9 would not be reached"),
        ({"regrow_start": 0.9, "every": 10, "regrow_end": 0.5}, (200, 20), "regeneration from step 180 to 100"),
    ],
)
def test_phases_that_cannot_be_are_refused(options, length, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        resolve(make_method("granet", **options), *length)


def test_steps_need_no_length():
    method = make_method("gmp", every=10, prune_start="0 steps", prune_end="100 steps")
    assert resolve(method, None, None).prune_end == 100
