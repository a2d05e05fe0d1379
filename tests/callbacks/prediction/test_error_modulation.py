"""ErrorModulation on a stranger's module, its schedules, and what it refuses."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.callbacks import ErrorModulation
from plasticity_lightning.readouts.modulation import Modulation, attention_gate, modulated_error


class Stranger(pl.LightningModule):
    """A leaky integrator of a cue with one weight that follows an outcome by a delta rule: none of the package's modules."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.error_modulation = None
        self.w = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.seen: list[tuple[float, float]] = []

    def training_step(self, batch, i):
        held = self.error_modulation or Modulation()
        time, onset = torch.arange(0.0, 500.0, 10.0), torch.tensor([200.0])
        gate = attention_gate(held, time, onset)[0]
        for open_now in gate:
            self.w += 0.01 * open_now * modulated_error(held, 1.0 - self.w)
        self.seen.append((float(gate.sum()), held.gain))

    def configure_optimizers(self):
        return None


def trained(**arguments) -> Stranger:
    module = Stranger()
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[ErrorModulation(**arguments)],
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(10, 1), batch_size=1))
    return module


def test_gate_and_error_of_a_strangers_rule():
    default = trained()
    assert {n for n, _ in default.seen} == {27.0}  # 0, 10, ..., 260: from the cue to 60 ms after the outcome
    assert {n for n, _ in trained(gate="around_outcome", around_ms=20).seen} == {5.0}
    assert trained(error="negative").w.item() == 0.0  # the error is never negative
    assert 0 < trained(gain=0.1).w.item() < default.w.item() <= 1


def test_off_trials_and_schedules_follow_the_count_of_trials():
    gains = [gain for _, gain in trained(off=[(0, 1), (5, 5)]).seen]
    assert gains == [0, 0, 1, 1, 1, 0, 1, 1, 1, 1]
    gains = [gain for _, gain in trained(gain=1.0, final_gain=0.0, schedule="linear", begin=2, end=6).seen]
    assert gains == pytest.approx([1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0, 0])


def test_both_gains_follow_the_schedule_from_their_own_start():
    held = ErrorModulation(gain=2.0, offline_gain=1.0, final_gain=0.0, begin=0, end=10).at(5)
    assert (held.gain, held.offline_gain) == (1.0, 0.5)


def test_a_module_without_the_slot_is_told_what_to_add():
    class Plain(pl.LightningModule):
        def training_step(self, batch, i):
            return None

        def configure_optimizers(self):
            return None

    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[ErrorModulation()]
    )
    with pytest.raises(MisconfigurationException, match="error_modulation = None"):
        trainer.fit(Plain(), torch.utils.data.DataLoader(torch.zeros(1, 1)))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"gate": "never"}, "gate='never'"),
        ({"error": "large"}, "error='large'"),
        ({"gain": -1.0}, "gain=-1.0"),
        ({"schedule": "steps"}, "schedule='steps'"),
        ({"final_gain": -1.0}, "final_gain=-1.0"),
        ({"final_gain": 1.0, "begin": 5, "end": 2}, "begin=5"),
        ({"off": [(3, 1)]}, "off="),
        ({"off": [(1,)]}, "off="),
    ],
)
def test_bad_arguments_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        ErrorModulation(**arguments)
