"""The table of coverage: printed once a fit, after the first batch, for all callbacks that offer rows."""

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from plasticity_lightning.protocols import CoverageRow, HasCoverage
from plasticity_lightning.runtime import CoverageSummary, announce_coverage
from plasticity_lightning.runtime.coverage import coverage_rows, coverage_table
from tests.callbacks.interventions.toys import Regression, fit


class Masks(Callback):
    """Offers rows; counts the batches seen when it was asked."""

    def __init__(self):
        self.asked = []

    def setup(self, trainer, pl_module, stage):
        if stage == "fit":
            announce_coverage(trainer)

    def coverage(self, trainer, pl_module):
        self.asked.append(trainer.global_step)
        rows = [CoverageRow("Masks", name, "masked", "") for name, p in pl_module.named_parameters() if p.ndim == 2]
        return [*rows, CoverageRow("Masks", "head.bias", "left out", "a vector")]


class Other(Masks):
    def coverage(self, trainer, pl_module):
        return [CoverageRow("Other", "body", "left out", "it does nothing here")]


def printed(capsys):
    return capsys.readouterr().out


def test_one_table_for_all_after_the_first_batch_of_each_fit(capsys):
    masks = Masks()
    assert isinstance(masks, HasCoverage)
    for _ in range(2):
        trainer = fit(Regression(), [masks, Other()], steps=3)
        out = printed(capsys)
        assert out.count("What the callbacks act on") == 1
        for words in ("Masks", "masked", "body.0.weight", "a vector", "Other", "it does nothing here"):
            assert words in out
        assert not any(isinstance(callback, CoverageSummary) for callback in trainer.callbacks)  # it has done its work
    assert masks.asked == [1, 1]


def test_it_waits_for_the_first_step(capsys):
    masks = Masks()
    fit(Regression(), [masks], steps=2, accumulate_grad_batches=3)
    assert masks.asked == [1]
    never = Masks()
    fit(Regression(), [never], steps=-1, max_epochs=1, limit_train_batches=2, accumulate_grad_batches=5)
    assert never.asked == [1]  # the last batch of an epoch steps whatever has been accumulated


def test_callbacks_after_it_in_the_list_miss_no_hook():
    class Counts(Callback):
        seen = 0

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.seen += 1

    class Appends(Callback):
        def setup(self, trainer, pl_module, stage):
            trainer.callbacks.append(later)

    later = Counts()
    fit(Regression(), [Masks(), Appends()], steps=3)
    assert later.seen == 3


@pytest.mark.parametrize("callbacks", [lambda: [CoverageSummary(quiet=True), Masks()], lambda: [CoverageSummary()]])
def test_quiet_or_without_rows_nothing_is_printed(callbacks, capsys):
    fit(Regression(), callbacks(), steps=3)
    assert "act on" not in printed(capsys)


def test_training_is_bitwise_the_same_with_the_table(capsys):
    ends = []
    for callbacks in ([Masks()], []):
        module = Regression()
        fit(module, callbacks, steps=3)
        ends.append(module.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_parts_that_fare_alike_stand_in_one_line():
    rows = [CoverageRow("A", f"layer{i}.weight", "masked", "") for i in range(6)]
    rows.insert(2, CoverageRow("A", "norm.weight", "left out", "a vector"))
    short, full = coverage_table(rows), coverage_table(rows, full=True)
    assert list(short.columns[2].cells) == ["6", "1"]
    assert next(iter(short.columns[3].cells)) == "layer0.weight, layer1.weight, layer2.weight, and 3 more"
    assert next(iter(full.columns[3].cells)) == ", ".join(f"layer{i}.weight" for i in range(6))


def test_callbacks_without_coverage_have_no_rows():
    assert coverage_rows(Trainer(logger=False, callbacks=[Callback()], enable_checkpointing=False), None) == []
