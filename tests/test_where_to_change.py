"""The table "Where to change what" of CONTRIBUTING.md: each name is defined where it says, and an edit of it changes what runs.

An edit is made as an editor would, in the function itself: its code object is exchanged, so that everyone who has imported the function has the
edited one. `original` in an edited function is the function as it was.
"""

from __future__ import annotations

import ast
import gzip
import importlib
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from plasticity_lightning import schedules
from plasticity_lightning.callbacks import (
    AdaptiveReplayRatio,
    PlasticityMonitor,
    PruneRegrowScheduler,
    ReDo,
)
from plasticity_lightning.control.replay_ratio import RatioState
from plasticity_lightning.data import MNISTDataModule
from plasticity_lightning.data.images.idx import read_idx
from plasticity_lightning.interventions.redo import dormant_units
from plasticity_lightning.measures.activity import active_entries, dormant_scores
from plasticity_lightning.modules import NALSM
from plasticity_lightning.readouts.features import normalise_counts
from plasticity_lightning.readouts.loss import soft_cross_entropy
from plasticity_lightning.runtime import AtomicCheckpoint
from plasticity_lightning.runtime.checkpoint_file import write_checkpoint
from plasticity_lightning.sparsity.criteria import magnitude
from plasticity_lightning.sparsity.growth import GROWTH
from plasticity_lightning.spiking import rules
from plasticity_lightning.spiking.astrocyte import Astrocyte, astrocyte_step
from plasticity_lightning.spiking.encoding import pulse_probability
from plasticity_lightning.spiking.liquid import _cpu_kernel
from plasticity_lightning.spiking.liquid.topology import grid_liquid
from plasticity_lightning.spiking.neurons import charge
from tests.callbacks.toy_networks import Classifier, images

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| (.+?) \| `([\w/]+\.py)` \| `(\w+)` \|$", re.MULTILINE)
ROWS = ROW.findall((ROOT / "CONTRIBUTING.md").read_text())
original: Any = None  # in the code of an edit: the unedited function


def edit(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], changed: Callable[..., Any]) -> None:
    """Give `function` the code of `changed`."""
    assert isinstance(function, FunctionType)
    before = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    before.__kwdefaults__ = function.__kwdefaults__
    monkeypatch.setitem(function.__globals__, "original", before)
    monkeypatch.setattr(function, "__code__", changed.__code__)


# what runs: each returns something that can be compared


def trained(*callbacks: Callback, folder: Path | None = None) -> tuple[pl.Trainer, Classifier]:
    torch.manual_seed(0)
    model = Classifier()
    trainer = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=folder is not None, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", log_every_n_steps=1, callbacks=list(callbacks), default_root_dir=folder, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, images())
    return trainer, model


def monitors_log() -> dict[str, float]:
    trainer, _ = trained(PlasticityMonitor(measures=["fau", "dormant"]))
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("plasticity/")}


def weights_after(callback: Callback) -> list[float]:
    _, model = trained(callback)
    return torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()


def redo() -> list[float]:
    return weights_after(ReDo(every=2))


def sparse() -> list[bool]:
    options = {"every": 1, "prune_end": 0.75, "sparsity": 0.5}
    return [bool(value) for value in weights_after(PruneRegrowScheduler(method="granet", **options))]


def liquid_counts(engine: str = "reference") -> list[list[int]]:
    model = NALSM(n_inputs=36, shape=(3, 3, 4), feature_steps=40, engine=engine, scale=0.05, input_density=0.5)
    model.modulator = Astrocyte(weight=0.1)
    pixels = torch.randint(0, 256, (3, 36), generator=torch.Generator().manual_seed(0))
    return model.record({"image": pixels, "index": torch.arange(3), "label": torch.zeros(3).long()}).counts.tolist()


def logits() -> list[list[float]]:
    model = NALSM(n_inputs=36, n_classes=2, shape=(1, 2, 2))
    torch.nn.init.ones_(model.readout_weight[:1])
    model.output_scale.fill_(1.0)
    return model(torch.tensor([[3, 1, 0, 0]])).tolist()


def readout() -> list[float]:
    from plasticity_lightning.readouts import READOUTS

    x, y = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    solver = READOUTS["lbfgs"](x, y, x, y, 2)
    return [solver.step()["loss"] for _ in range(2)]


def ratios() -> list[float]:
    class Published(Classifier):
        replay_ratio, seen = 9.0, []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen.append(self.replay_ratio)
            self.log("signal", 0.5)
            return super().training_step(batch, batch_idx)

    callback = AdaptiveReplayRatio("signal", unit="batch", check_every=2, ladder=[0.5, 2], raise_when="change <= 0.001")
    trainer = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        log_every_n_steps=1, callbacks=[callback],
    )  # fmt: skip
    trainer.fit(Published(), images())
    return Published.seen


def mnist(folder: Path) -> list[int]:
    (folder / "mnist").mkdir(exist_ok=True)
    for part in ("train", "t10k"):
        for kind, shape, values in (("images-idx3", (4, 28, 28), [9] * 4 * 784), ("labels-idx1", (4,), [0, 1, 2, 3])):
            header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
            (folder / "mnist" / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + bytes(values)))
    data = MNISTDataModule(root=str(folder), val_size=1, download=False)
    data.setup()
    return data.arrays("train_file")[0].flatten().tolist()


def checkpoint(folder: Path) -> bool:
    trained(AtomicCheckpoint(dirpath=str(folder)), folder=folder)
    return (folder / "edited").exists()


CHANGES: dict[str, tuple[Any, Callable[..., Any], Callable[..., Any]]] = {
    "active_entries": (active_entries, lambda activation: original(activation - 0.5), monitors_log),
    "dormant_scores": (
        dormant_scores,
        lambda mean_abs, unit_mask=None: 0 * original(mean_abs, unit_mask),
        monitors_log,
    ),
    "dormant_units": (dormant_units, lambda abs_sum, tau: ~original(abs_sum, tau), redo),
    "pair_terms": (
        rules.pair_terms,
        lambda source_spikes, target_spikes, source_trace, target_trace, at_target, at_source: (
            at_target * source_trace * target_spikes * 3,
            at_source * target_trace * source_spikes,
        ),
        liquid_counts,
    ),
    "spike_rates": (rules.spike_rates, lambda inhibitory, lr, depression: (lr, -depression * 3), liquid_counts),
    "charge": (charge, lambda v, x, tau_mem: v + (x - 3 * v / tau_mem), liquid_counts),
    "astrocyte_step": (
        astrocyte_step,
        lambda state, n_liquid, n_input, weight, bias, tau: state + (weight * n_liquid + bias - state) / tau,
        liquid_counts,
    ),
    "grid_liquid": (
        grid_liquid,
        lambda shape, n_inputs, *, weight, input_density, excitatory_fraction, probability, length_scale, generator: (
            original(shape, n_inputs, weight=weight, input_density=input_density / 2, generator=generator)
        ),
        liquid_counts,
    ),
    "pulse_probability": (pulse_probability, lambda images, scale: original(images, scale) / 2, liquid_counts),
    "normalise_counts": (normalise_counts, lambda counts: 2 * original(counts), logits),
    "soft_cross_entropy": (soft_cross_entropy, lambda logits, targets: 2 * original(logits, targets), readout),
    "magnitude": (magnitude, lambda weight: -original(weight), sparse),
    "cubic": (
        schedules.cubic,
        lambda step, initial, final, start, end: original(step, initial, 0.9, start, end),
        sparse,
    ),
    "RatioState": (RatioState.unit_over, lambda self, units: None, ratios),
    "read_idx": (read_idx, lambda path, n_dims: original(path, n_dims) // 3, mnist),
    "write_checkpoint": (
        write_checkpoint,
        lambda state, path: (original(state, path), (path.parent / "edited").touch()),
        checkpoint,
    ),
}


def defined(source: str) -> set[str]:
    """Names that a file defines at its top: functions, classes, variables."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_the_table_is_long_enough_and_every_row_is_tested() -> None:
    assert len(ROWS) >= 12
    assert {name for _, _, name in ROWS} == {*CHANGES, "GROWTH"}


@pytest.mark.parametrize(("question", "file", "name"), ROWS, ids=[name for _, _, name in ROWS])
def test_the_name_is_defined_there(question: str, file: str, name: str) -> None:
    assert name in defined((ROOT / "plasticity_lightning" / file).read_text()), question


@pytest.mark.parametrize("name", CHANGES)
def test_an_edit_changes_what_runs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    function, changed, runs = CHANGES[name]
    arguments = [tmp_path] if runs in (mnist, checkpoint) else []
    before = runs(*arguments)
    assert runs(*arguments) == before  # the path itself is deterministic
    edit(monkeypatch, function, changed)
    assert runs(*arguments) != before


def test_a_criterion_of_growth_is_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sparse()
    monkeypatch.setitem(GROWTH, "gradient", lambda layer: -layer.gradient.abs())
    assert sparse() != before


@pytest.fixture
def unedited() -> Iterator[None]:
    """The kernel is compiled from the functions as they are when its module is loaded."""
    yield
    importlib.reload(_cpu_kernel)


def test_rule_neuron_and_astrocyte_change_in_the_compiled_engine_too(
    unedited: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = liquid_counts("cpu")
    assert before == liquid_counts("reference")
    with monkeypatch.context() as edits:
        for name in (
            "pair_terms",
            "spike_rates",
            "charge",
            "astrocyte_step",
        ):  # each alone changes the reference, see above
            edit(edits, *CHANGES[name][:2])
        importlib.reload(_cpu_kernel)
        after = liquid_counts("cpu")
        assert after == liquid_counts("reference")
    assert after != before
