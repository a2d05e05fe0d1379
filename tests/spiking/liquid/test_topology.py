"""Who is connected to whom: the drawn liquid against its formula, with exact binomial bounds, and the edge list by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from torch import Tensor

from plasticity_lightning.spiking.liquid.topology import ConnectionProbability, Liquid, grid_liquid

SHAPE, N_INPUTS = (10, 10, 10), 50
CASES = [
    (None, 3.0),
    (ConnectionProbability(0.5, 0.02, 0.9, 0.4), 1.5),
]


def draw(seed: int = 0, **arguments: object) -> Liquid:
    return grid_liquid(SHAPE, N_INPUTS, generator=torch.Generator().manual_seed(seed), **arguments)


def within(successes: int, trials: int, probability: float, n_tests: int) -> bool:
    """Whether the count lies where a binomial one does, but for one family of `n_tests` counts in a million."""
    level = 1e-6 / n_tests
    return bool(binom.ppf(level / 2, trials, probability) <= successes <= binom.isf(level / 2, trials, probability))


def squared_distances(liquid: Liquid) -> Tensor:
    positions = liquid.positions.long()
    return (positions[:, None] - positions[None]).square().sum(2)


@pytest.mark.parametrize(("probability", "length_scale"), CASES, ids=["the paper's", "others"])
def test_connections_fall_with_distance_as_the_formula_says_for_each_pair_of_types(
    probability: ConnectionProbability | None, length_scale: float
) -> None:
    liquid = draw(probability=probability, length_scale=length_scale)
    square = squared_distances(liquid)  # [source, target]
    exists = torch.zeros_like(square, dtype=torch.bool)
    exists[liquid.recurrent_edges()] = True
    assert not exists.diagonal().any()
    expected, excitatory = probability or ConnectionProbability(), torch.arange(1000) < liquid.n_excitatory
    classes = range(1, int(square.max()) + 1)
    n_tests, seen = 4 * len(classes), 0
    for kind, sources, targets in (
        ("ee", excitatory, excitatory),
        ("ei", excitatory, ~excitatory),
        ("ie", ~excitatory, excitatory),
        ("ii", ~excitatory, ~excitatory),
    ):
        pairs = sources[:, None] & targets[None]
        trials = torch.bincount(square[pairs], minlength=len(classes) + 1)
        edges = torch.bincount(square[pairs & exists], minlength=len(classes) + 1)
        for d2 in classes:
            p = getattr(expected, kind) * math.exp(-d2 / length_scale**2)
            assert within(int(edges[d2]), int(trials[d2]), p, n_tests), (kind, d2, int(edges[d2]), int(trials[d2]), p)
        seen += int(edges.sum())
    assert seen == len(liquid.recurrent_edges()[0])


def test_the_bounds_would_notice_a_formula_that_is_off_by_a_fifth() -> None:
    liquid = draw()
    n_ee = int(liquid.edge_types()["ee"].sum())
    square = squared_distances(liquid)[:800, :800]
    mean = float((0.2 * torch.exp(-square / 9.0)).fill_diagonal_(0).sum()) / (800 * 799)
    assert within(n_ee, 800 * 799, mean, 1)
    assert not within(n_ee, 800 * 799, 1.2 * mean, 1)
    assert not within(n_ee, 800 * 799, mean / 1.2, 1)


def test_a_liquid_of_the_papers_size_has_its_number_of_edges() -> None:
    # measured on the published builder: 16661 liquid edges; the mean of the formula is within 5 % of 16700
    types = draw(input_density=0.15).edge_types()
    recurrent = sum(int(types[kind].sum()) for kind in ("ee", "ei", "ie", "ii"))
    assert abs(recurrent - 16700) < 0.05 * 16700
    big = grid_liquid(SHAPE, 784, generator=torch.Generator().manual_seed(1))
    assert int(big.edge_types()["input"].sum()) == 117600  # floor(0.15 * 1000 * 784)


@pytest.mark.parametrize(("fraction", "expected"), [(0.8, 800), (0.5, 500), (0.0004, 0), (1.0, 1000)])
def test_four_fifths_are_excitatory_and_signs_follow_the_source(fraction: float, expected: int) -> None:
    liquid = draw(excitatory_fraction=fraction, weight=1.5)
    assert liquid.n_excitatory == expected
    source = liquid.source
    assert set(liquid.weight[source < expected].tolist()) <= {1.5}
    assert set(liquid.weight[(source >= expected) & (source < 1000)].tolist()) <= {-1.5}
    assert set(liquid.weight[source >= 1000].tolist()) == {1.5, -1.5}


def test_neurons_fill_the_grid_and_types_are_scattered_over_it() -> None:
    liquid = draw()
    assert len({tuple(p) for p in liquid.positions.tolist()}) == 1000
    assert (liquid.positions.amin(0).tolist(), liquid.positions.amax(0).tolist()) == ([0, 0, 0], [9, 9, 9])
    for axis in range(3):  # 500 places lie in the lower half; of 800 excitatory neurons a hypergeometric number, sd 6.3
        lower = int((liquid.positions[:800, axis] < 5).sum())
        assert abs(lower - 400) < 6 * 6.3


@pytest.mark.parametrize("density", [0.0, 0.15, 0.4999, 1.0])
def test_input_edges_are_exactly_as_many_as_the_density_says_distinct_and_spread_over_all_neurons(
    density: float,
) -> None:
    liquid = draw(input_density=density)
    mask = liquid.edge_types()["input"]
    n = int(mask.sum())
    assert n == int(density * 1000 * N_INPUTS)
    pairs = liquid.source[mask].long() * 1000 + liquid.target[mask]
    assert len(pairs.unique()) == n
    if 0 < density < 1:
        # without replacement these counts are hypergeometric, which is narrower than binomial
        assert within(int((liquid.target[mask] >= 800).sum()), n, 0.2, 3)
        assert within(int((liquid.source[mask] < 1025).sum()), n, 0.5, 3)
        assert within(int((liquid.weight[mask] > 0).sum()), n, 0.5, 3)


def test_one_seed_one_liquid() -> None:
    first, again, other = draw(3), draw(3), draw(4)
    for name in ("positions", "source", "target", "weight"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert first.source.shape != other.source.shape or not torch.equal(first.source, other.source)


def by_hand() -> Liquid:
    """Two excitatory neurons 0, 1 and an inhibitory one 2, channels 3 and 4: 0 -> 1, 0 -> 2, 2 -> 0, 4 -> 1."""
    return Liquid(
        n_inputs=2,
        n_neurons=3,
        n_excitatory=2,
        positions=torch.zeros(3, 3),
        source=torch.tensor([0, 0, 2, 4]).int(),
        target=torch.tensor([1, 2, 0, 1]).int(),
        weight=torch.tensor([1.0, 1.0, -1.0, 1.0]),
    )


def test_the_edge_list_by_hand() -> None:
    liquid = by_hand()
    assert (liquid.n_sources, liquid.n_edges) == (5, 4)
    assert liquid.source_offsets().tolist() == [0, 2, 2, 3, 3, 4]
    types = {kind: mask.nonzero()[:, 0].tolist() for kind, mask in liquid.edge_types().items()}
    assert types == {"ee": [0], "ei": [1], "ie": [2], "ii": [], "input": [3]}
    source, target = liquid.recurrent_edges()
    assert (source.tolist(), target.tolist()) == ([0, 0, 2], [1, 2, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": torch.tensor([0, 0, 2]).int()}, "of equal length"),
        ({"positions": torch.zeros(2, 3)}, r"positions must be \[3, 3\]"),
        ({"n_excitatory": 4}, "n_excitatory=4"),
        ({"source": torch.tensor([0, 0, 2, 5]).int()}, r"source indices must lie in \[0, 5\)"),
        ({"target": torch.tensor([1, 2, 0, 3]).int()}, r"target indices must lie in \[0, 3\)"),
        ({"target": torch.tensor([2, 1, 0, 1]).int()}, "sorted by"),
        ({"target": torch.tensor([1, 1, 0, 1]).int()}, "distinct"),
    ],
)
def test_an_edge_list_that_is_none_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Liquid(**{**vars(by_hand()), **change})


@given(st.tuples(*[st.integers(1, 3)] * 3), st.integers(1, 4), st.integers(0, 99))
def test_every_drawn_liquid_is_a_sorted_list_without_self_connections(
    shape: tuple[int, int, int], n_inputs: int, seed: int
) -> None:
    everywhere = ConnectionProbability(1.0, 1.0, 1.0, 1.0)
    generator = torch.Generator().manual_seed(seed)
    liquid = grid_liquid(shape, n_inputs, probability=everywhere, length_scale=1e6, generator=generator)
    n = math.prod(shape)
    source, target = liquid.recurrent_edges()
    assert len(source) == n * (n - 1)  # at length scales beyond the grid and probability 1, all pairs
    assert not bool((source == target).any())
