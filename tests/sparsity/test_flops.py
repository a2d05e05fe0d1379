"""FLOPs from living weights and their uses, computed by hand."""

import pytest

from plasticity_lightning.sparsity.flops import (
    FlopsLedger,
    dense_gradient_step_flops,
    inference_flops,
    rigl_training_flops,
    training_flops,
)


def test_a_forward_pass_by_hand():
    positions = {"conv": 25, "grouped": 9}  # the last layer is used once
    living = {"conv": 36, "grouped": 144, "last": 720}
    assert inference_flops(living, positions) == 2 * (36 * 25 + 144 * 9 + 720)


def test_a_ledger_counts_what_it_has_observed_and_embeddings_only_if_they_act():
    ledger = FlopsLedger({"conv": 10, "embedding": 1000}, {"embedding": 0})
    assert not ledger.observed
    assert ledger.forward({"conv": 5}) == 2 * 5
    ledger.observe({"conv": 4, "stranger": 7})
    assert ledger.observed
    assert ledger.forward({"conv": 5}) == 2 * 5 * 4
    ledger.observe({"embedding": 1})  # tied with the output layer
    assert ledger.forward({"conv": 5}) == 2 * (5 * 4 + 1000)
    ledger.add_step({"conv": 5})
    assert ledger.training == (20 + 1000) / (40 + 1000)


def test_training_formulas_by_hand():
    assert training_flops(10) == 30
    assert dense_gradient_step_flops(10, 100) == 120
    # (30 * 99 + 120) / 100
    assert rigl_training_flops(10, 100, 99) == pytest.approx(30.9)
    with pytest.raises(ValueError, match="every=0"):
        rigl_training_flops(1, 1, 0)
