"""Checkpoints hold plain values and no place in the package: they outlive a move of every class of ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import lightning.pytorch as pl
import pytest
import torch

from plasticity_lightning.callbacks import AstrocyteFeedback, LiquidMonitor
from plasticity_lightning.cli import main
from plasticity_lightning.data import DigitsDataModule
from plasticity_lightning.modules import NALSM, ImageClassifier, RandomFeatureClassifier
from plasticity_lightning.runtime import AtomicCheckpoint
from plasticity_lightning.runtime.hyperparameters import from_hyperparameter, save_plain_hyperparameters
from plasticity_lightning.spiking.liquid import NeuronParameters
from plasticity_lightning.spiking.rules import APSTDP
from tests.runtime.pickled import names_in

SMALL = {"n_inputs": 64, "shape": (3, 3, 4), "feature_steps": 60, "threads": 1}
RULE, NEURON = APSTDP(lr=0.1, theta=20.0), NeuronParameters(tau_mem=50.0)


@dataclass(frozen=True)
class Settings:
    """Two fields of a module's argument."""

    rate: float = 0.5
    names: tuple[str, ...] = ("a",)


@dataclass(frozen=True)
class Outer:
    """A dataclass in a dataclass."""

    inner: Settings = Settings()
    number: int = 1


class Plain(pl.LightningModule):
    """Keeps one argument, a dataclass another, and forgets the third."""

    def __init__(self, width: int = 2, settings: Settings = Settings(), fresh: object = None) -> None:
        super().__init__()
        save_plain_hyperparameters(self, ignore=["fresh"])
        self.settings = from_hyperparameter(Settings, settings)


def test_a_dataclass_is_kept_as_its_fields_and_made_again() -> None:
    module = Plain(3, Settings(0.1), fresh=object())
    assert dict(module.hparams) == {"width": 3, "settings": {"rate": 0.1, "names": ("a",)}}
    assert dict(module.hparams_initial) == dict(module.hparams)
    assert Plain(**module.hparams).settings == Settings(0.1)


def test_dataclasses_in_dataclasses_are_made_again_and_unknown_fields_are_refused() -> None:
    assert from_hyperparameter(Outer, asdict(Outer(Settings(0.2), 3))) == Outer(Settings(0.2), 3)
    assert from_hyperparameter(Outer, {"number": 2}) == Outer(number=2)
    with pytest.raises(TypeError, match="colour"):
        from_hyperparameter(Outer, {"colour": 1})


def fit(module: pl.LightningModule, folder: Path, *callbacks: pl.Callback, epochs: int = -1) -> Path:
    trainer = pl.Trainer(
        max_epochs=epochs, num_sanity_val_steps=0, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        default_root_dir=folder, callbacks=[AtomicCheckpoint(), *callbacks],
    )  # fmt: skip
    dictionaries = not isinstance(module, ImageClassifier)
    kind = "uint8" if dictionaries else "float32"
    trainer.fit(
        module, DigitsDataModule(batch_size=20, val_size=20, limit_train=40, dtype=kind, with_index=dictionaries)
    )
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The classes live elsewhere under other names, and their old homes no longer know them."""
    elsewhere = ModuleType("somewhere_else")
    monkeypatch.setitem(sys.modules, "somewhere_else", elsewhere)
    classes = (APSTDP, NeuronParameters, NALSM, RandomFeatureClassifier, ImageClassifier)
    before = [(cls, cls.__module__, cls.__name__, cls.__qualname__) for cls in classes]
    for cls, module, name, _ in before:
        monkeypatch.delattr(sys.modules[module], name)
        cls.__module__, cls.__name__, cls.__qualname__ = "somewhere_else", f"Renamed{name}", f"Renamed{name}"
        setattr(elsewhere, cls.__name__, cls)
    yield
    for cls, module, name, qualified in before:
        cls.__module__, cls.__name__, cls.__qualname__ = module, name, qualified


def modules() -> list[pl.LightningModule]:
    return [
        NALSM(rule_parameters=RULE, neuron=NEURON, **SMALL),
        RandomFeatureClassifier(n_inputs=64, n_features=20, fan_in=8),
        ImageClassifier("lenet_300_100", {"n_inputs": 64, "widths": [8, 8]}),
    ]


def test_a_checkpoint_of_every_module_names_no_place_of_ours_and_loads_after_a_move(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    written = []
    for number, module in enumerate(modules()):
        callbacks = [AstrocyteFeedback(), LiquidMonitor(n_items=3)] if isinstance(module, NALSM) else []
        epochs = 1 if isinstance(module, ImageClassifier) else -1
        written.append((module, fit(module, tmp_path / str(number), *callbacks, epochs=epochs)))
    assert [names_in(path) for _, path in written] == [set()] * len(written)
    request.getfixturevalue("moved")
    for module, path in written:
        loaded = type(module).load_from_checkpoint(path, weights_only=True)
        assert all(torch.equal(loaded.state_dict()[name], value) for name, value in module.state_dict().items())
        if isinstance(module, NALSM):
            assert (loaded.hparams["rule_parameters"]["theta"], loaded.neuron) == (20.0, NEURON)


def test_the_commands_checkpoint_names_no_place_and_resumes_by_the_class_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    small = ["--model.init_args.shape=[3,3,4]", "--model.init_args.feature_steps=60", "--data.init_args.limit_train=40"]
    common = ["--config", "nalsm/quickstart", *small, "--trainer.enable_progress_bar=false"]
    common += ["--trainer.default_root_dir", str(tmp_path)]
    rule = "--model.init_args.rule_parameters.lr=0.1"
    assert main(["fit", *common, rule, "--test_after_fit=false"]) == 0
    checkpoint = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    assert names_in(checkpoint) == set()
    assert main(["test", *common, "--ckpt_path=last"]) == 0
    assert "rule_parameters.lr is 0.1 as in the checkpoint, not 0.15" in capsys.readouterr().err
    loaded = NALSM.load_from_checkpoint(checkpoint, weights_only=True)
    assert loaded.hparams["rule_parameters"]["lr"] == 0.1
    assert loaded.rule.lr == 0.1
