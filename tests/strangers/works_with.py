"""Every callback on every network of `networks`, as the Markdown table of docs/guides/works-with.md.

    nox -s strangers

A cell says how many parts the callback acts on, and how many it leaves out, by its own account (the table of coverage);
"refuses" with its message; or what is wrong. Checked are: a monitored run ends bit for bit as the plain one; after every
batch the zeros of masked weights are the zeros of the masks, also beside a callback that writes weights; an intervention
that is due acts or says why not; no run raises anything but a clear refusal.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from plasticity_lightning.callbacks import (  # the checkout, not an installed copy
    ContinualBackprop,
    L2Init,
    Parseval,
    PlasticityMonitor,
    PruneRegrowScheduler,
    ReDo,
    Reset,
    ShrinkAndPerturb,
    SoftReset,
)
from plasticity_lightning.runtime.coverage import CoverageSummary, coverage_rows
from tests.strangers.networks import NETWORKS

CALLBACKS: dict[str, Callable[[], list[Any]]] = {
    "PlasticityMonitor": lambda: [PlasticityMonitor(every=2)],
    "PruneRegrowScheduler": lambda: [_sparse()],
    "the same + L2Init": lambda: [_sparse(), L2Init(1e-2, decoupled=True)],
    "ReDo": lambda: [ReDo(tau=0.5, every=1, unit="batch")],
    "ContinualBackprop": lambda: [ContinualBackprop(rate=0.2, maturity=1)],
    "Reset(last=1)": lambda: [Reset(last=1, at=[3], unit="batch")],
    "ShrinkAndPerturb": lambda: [ShrinkAndPerturb(at=[3], unit="batch")],
    "L2Init": lambda: [L2Init(1e-2)],
    "SoftReset": lambda: [SoftReset()],
    "Parseval": lambda: [Parseval()],
}
COVERED_BY_OTHERS = {"left out", "not known yet"}


def _sparse() -> PruneRegrowScheduler:
    return PruneRegrowScheduler("granet", sparsity=0.9, every=2, total_steps=12, summary=False, log_layers=False)


class ZerosOfMasks(lightning.pytorch.Callback):
    """After every batch: what a mask has removed is zero in the weights."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        for callback in trainer.callbacks:
            if isinstance(callback, PruneRegrowScheduler):
                parameters = dict(pl_module.named_parameters())
                for name, mask in callback.masks.items():
                    if bool(parameters[name].detach()[~mask].any()):
                        raise AssertionError(f"{name}: weights outside the mask")


def train(name: str, callbacks: list[Any]) -> tuple[Any, Any, list[str]]:
    """(trainer, module, warnings of ours) after one epoch over the network's batches."""
    torch.manual_seed(0)
    module, loader = NETWORKS[name]()
    package: Any = lightning.pytorch
    if not isinstance(module, lightning.pytorch.LightningModule):
        import pytorch_lightning as package
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1, "limit_train_batches": 6}
    # the table is asked for below
    extra = [CoverageSummary(quiet=True), ZerosOfMasks()] if callbacks else []
    torch.manual_seed(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = package.Trainer(callbacks=[*callbacks, *extra], log_every_n_steps=1, **settings)
        trainer.fit(module, loader)
    return trainer, module, [str(w.message) for w in caught if "plasticity_lightning" in str(w.filename)]


def cell(name: str, callback: str, plain: dict[str, torch.Tensor]) -> str:
    """What one callback does on one network, in a few words."""
    callbacks = CALLBACKS[callback]()
    try:
        trainer, module, _ = train(name, callbacks)
    except (ValueError, lightning.pytorch.utilities.exceptions.MisconfigurationException) as error:
        return f"refuses: {str(error)[:90]}"
    except Exception as error:  # the table is for finding these
        return f"**{type(error).__name__}: {str(error)[:90]}**"
    if callback == "PlasticityMonitor" and any(
        not torch.equal(value, plain[key]) for key, value in module.state_dict().items()
    ):
        return "**changes the run**"
    rows = [row for row in coverage_rows(trainer, module) if row.callback.startswith(type(callbacks[0]).__name__)]
    left = sum(row.what in COVERED_BY_OTHERS for row in rows)
    return f"{len(rows) - left}" + (f" ({left} left out)" if left else "") if rows else "**says nothing**"


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write the table to this file, between its two marks")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--callbacks", nargs="*", default=list(CALLBACKS), choices=list(CALLBACKS))
    options = parser.parse_args()
    lines = ["| network | " + " | ".join(options.callbacks) + " |", "|---" * (len(options.callbacks) + 1) + "|"]
    for name in NETWORKS:
        if options.only.lower() not in name.lower():
            continue
        try:
            _, module, _ = train(name, [])
        except Exception as error:
            lines.append(f"| {name} | not built: {type(error).__name__}: {str(error)[:120]} |")
            print(lines[-1], flush=True)
            continue
        plain = {key: value.clone() for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
        lines.append(
            f"| {name} | " + " | ".join(cell(name, c, plain).replace("|", "/") for c in options.callbacks) + " |"
        )
        print(lines[-1], flush=True)
    packages = [
        "torch",
        "lightning",
        "timm",
        "transformers",
        "torch_geometric",
        "chemprop",
        "pytorch-forecasting",
        "scvi-tools",
    ]
    packages += ["lightly", "diffusers", "spikingjelly", "snntorch", "neuralforecast"]
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    if options.output:
        text = options.output.read_text()
        start, end = "<!-- table -->\n", "<!-- end of the table -->"
        before, after = text.split(start)[0], text.split(end)[1]
        options.output.write_text(
            before + start + "\n".join(lines) + f"\n\nMeasured with {versions}.\n\n" + end + after
        )


if __name__ == "__main__":
    main()
