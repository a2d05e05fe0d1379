"""The astrocyte as a callback: on a module with a slot, and on a stranger's module by name."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from plasticity_lightning.callbacks import AstrocyteFeedback
from plasticity_lightning.spiking.astrocyte import Astrocyte


class Fires(nn.Module):
    """Emits a fixed number of spikes a step: [B, 10] ones."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.ones(len(x), self.n), torch.zeros(len(x), 10 - self.n)], 1)


class Learner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lr_minus = 0.5


class Stranger(pl.LightningModule):
    """Knows nothing of astrocytes: 4 liquid and 1 input spikes a step, two steps a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.liquid_cells, self.input_cells, self.learner = Fires(4), Fires(1), Learner()
        self.layer = nn.Linear(1, 1)
        self.seen: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.append(self.learner.lr_minus)
        for _ in range(2):
            self.input_cells(batch)
            self.liquid_cells(batch)
        return self.layer(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(torch.zeros(6, 1), batch_size=2)


class Host(Stranger):
    def __init__(self) -> None:
        super().__init__()
        self.modulator: Astrocyte | None = None
        self.modulation: Tensor | None = None


def run(folder: Path, callback: AstrocyteFeedback, model: pl.LightningModule, **arguments: object) -> pl.Trainer:
    trainer = pl.Trainer(
        default_root_dir=folder, max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        log_every_n_steps=1, callbacks=[callback], **arguments,
    )  # fmt: skip
    trainer.fit(model)
    return trainer


BY_NAME = {"target": "learner.lr_minus", "liquid": "liquid_*", "inputs": "input_cells"}


def test_a_strangers_depression_rate_follows_the_astrocyte(tmp_path: Path) -> None:
    model = Stranger()
    run(tmp_path, AstrocyteFeedback(weight=0.1, bias=0.2, tau=10.0, **BY_NAME), model)
    # A(0) = 0.2; each step A += (0.1 * (4 - 1) + 0.2 - A) / 10; two steps a batch, three batches
    expected, a = [0.2], 0.2
    for _ in range(3):
        for _ in range(2):
            a += (0.1 * 3 + 0.2 - a) / 10
        expected.append(a)
    assert model.seen == pytest.approx(expected[:3])
    assert model.learner.lr_minus == pytest.approx(expected[3])


def test_state_survives_a_checkpoint(tmp_path: Path) -> None:
    callback = AstrocyteFeedback(weight=0.1, **BY_NAME)
    run(tmp_path, callback, Stranger())
    other = AstrocyteFeedback(weight=0.1, **BY_NAME)
    other.load_state_dict(callback.state_dict())
    assert float(other.state) == float(callback.state) != 0.15
    assert callback.state_key != AstrocyteFeedback(**{**BY_NAME, "target": "learner.other"}).state_key


def test_a_host_with_a_slot_receives_the_mechanism(tmp_path: Path) -> None:
    model = Host()
    run(tmp_path, AstrocyteFeedback(weight=0.3, density=0.5), model)
    assert model.modulator == Astrocyte(weight=0.3, density=0.5)


def test_hooks_are_gone_after_training_and_after_an_exception(tmp_path: Path) -> None:
    model = Stranger()
    run(tmp_path, AstrocyteFeedback(**BY_NAME), model)
    assert not model.liquid_cells._forward_hooks

    class Broken(Stranger):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            raise RuntimeError("broken")

    broken = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        run(tmp_path, AstrocyteFeedback(**BY_NAME), broken)
    assert not broken.liquid_cells._forward_hooks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no `modulator` slot"),
        ({**BY_NAME, "target": "learner.nothing"}, "has no attribute 'nothing'"),
        ({**BY_NAME, "liquid": "reservoir*"}, "matches no module"),
        ({**BY_NAME, "target": "learner.forward"}, "must be a number"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        run(tmp_path, AstrocyteFeedback(**arguments), Stranger())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -0.1}, "weight=-0.1"),
        ({"density": 0.0}, "density=0.0"),
        ({"tau": 0.5}, "tau=0.5"),
        ({"bias": -1.0}, "bias=-1.0"),
        ({"target": "a.b"}, "given together"),
        ({**BY_NAME, "density": 0.5}, "density=0.5"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AstrocyteFeedback(**arguments)


def test_logging_counts_batches_over_all_epochs(tmp_path: Path) -> None:
    trainer = pl.Trainer(
        default_root_dir=tmp_path, max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        enable_checkpointing=False, log_every_n_steps=4, callbacks=[AstrocyteFeedback(weight=0.1, **BY_NAME)],
    )  # fmt: skip
    trainer.fit(Stranger())  # an epoch has three batches
    assert "astrocyte/depression_rate" in trainer.callback_metrics


class Tuple(Fires):
    """Spikes and membrane potentials, as snnTorch's nodes return them."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        spikes = super().forward(x)
        return spikes, 100 * spikes


class MultiStep(Fires):
    """All time steps at once, as SpikingJelly's nodes do in step mode m."""

    step_mode = "m"

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([super().forward(x), super().forward(x)])


def course(batches: int) -> list[float]:
    """A at the start of each batch of `Stranger`, with weight 0.1, bias 0.2 and tau 10."""
    found, a = [], 0.2
    for _ in range(batches):
        found.append(a)
        for _ in range(2):
            a += (0.1 * 3 + 0.2 - a) / 10
    return found


def test_of_several_outputs_the_first_counts(tmp_path: Path) -> None:
    model = Stranger()
    model.liquid_cells, model.input_cells = Tuple(4), Tuple(1)
    run(tmp_path, AstrocyteFeedback(weight=0.1, bias=0.2, tau=10.0, **BY_NAME), model)
    assert model.seen == pytest.approx(course(3))


@pytest.mark.parametrize("wrap", [lambda node: node, nn.Sequential], ids=["node", "inside a container"])
def test_step_mode_m_is_noticed(wrap, tmp_path: Path) -> None:
    class OneCall(Stranger):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.seen.append(self.learner.lr_minus)
            self.input_cells(batch)
            self.liquid_cells(batch)
            return self.layer(batch).sum()

    model = OneCall()
    model.liquid_cells, model.input_cells = wrap(MultiStep(4)), wrap(MultiStep(1))
    run(tmp_path, AstrocyteFeedback(weight=0.1, bias=0.2, tau=10.0, **BY_NAME), model)
    assert model.seen == pytest.approx(course(3))


def test_a_contradicted_step_mode_and_outputs_without_spikes_are_refused(tmp_path: Path) -> None:
    model = Stranger()
    model.liquid_cells = MultiStep(4)
    with pytest.raises(
        MisconfigurationException, match="time_first=False contradicts 'liquid_cells', whose step mode is m"
    ):
        run(tmp_path, AstrocyteFeedback(time_first=False, **BY_NAME), model)

    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"spikes": x}

    model = Stranger()
    model.liquid_cells = Nothing()
    with pytest.raises(MisconfigurationException, match="liquid: 'liquid_cells' returns dict"):
        run(tmp_path, AstrocyteFeedback(**BY_NAME), model)


def test_a_callback_that_serves_a_second_fit_begins_at_rest(tmp_path: Path) -> None:
    callback = AstrocyteFeedback(weight=0.1, bias=0.2, tau=10.0, **BY_NAME)
    for _ in range(2):
        model = Stranger()
        run(tmp_path, callback, model)
        assert model.seen == pytest.approx(course(3))


def test_it_tells_what_it_senses_and_sets(tmp_path: Path) -> None:
    model, callback = Stranger(), AstrocyteFeedback(**BY_NAME)
    trainer = run(tmp_path, callback, model)
    assert [row[1:] for row in callback.coverage(trainer, model)] == [
        ("liquid_cells", "sensed: liquid", "a step a call"),
        ("input_cells", "sensed: inputs", "a step a call"),
        ("learner.lr_minus", "set", "after each batch"),
    ]
    slot = AstrocyteFeedback(density=0.5)
    assert [row.what for row in slot.coverage(run(tmp_path, slot, Host()), model)] == ["modulated"]
