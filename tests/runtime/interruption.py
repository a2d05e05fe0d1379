"""Stops a short run wherever it can be stopped, resumes it, and compares all that can be compared with the whole run.

A run is stopped by *kill*: what then counts is the last checkpoint on the disk, so a run that saves after every batch and epoch is
resumed from every file that it ever wrote; by an *exception* at a hook, which must leave that file as it is; and by a *signal* at a hook.
Compared are the final checkpoint entry by entry (weights, optimisers, schedules, callbacks and their masks, counters, random
states, averages not yet logged), each batch that was fed, and every point that a logger was given, by tag and step. Only what a
clock says and where a folder lies are not compared.
"""

from __future__ import annotations

import hashlib
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger

from plasticity_lightning.control.replay import log
from plasticity_lightning.control.replay.ring import FrameRing
from plasticity_lightning.runtime import AtomicCheckpoint, GracefulStop, RNGState

__all__ = ["HOOKS", "Case", "Run", "differences", "resumed_everywhere", "stopped_everywhere"]

# all that Lightning calls while it trains; `on_batch_complete` and `on_epoch_complete` are ours
HOOKS = (
    "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end", "on_validation_start", "on_validation_epoch_start", "on_validation_batch_start",
    "on_validation_batch_end", "on_validation_epoch_end", "on_validation_end", "on_train_epoch_end", "on_train_end",
)  # fmt: skip
_TIMED = ("updates_per_second", "frames_per_second")


@dataclass
class Case:
    """A recipe of a run: fresh objects at each call."""

    module: Callable[[], LightningModule]
    data: Callable[[], Any]  # a data module or (training loader, validation loader)
    callbacks: Callable[[], list[Callback]] = list
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass
class Run:
    """What a run did: final checkpoint, batches by number, points by (tag, step)."""

    final: dict[str, Any]
    batches: dict[int, list[float]]
    points: dict[tuple[str, int], set[str]]
    hooks: int = 0


class _Stopped(Exception):
    pass


class _Watcher(Callback):
    """Counts hooks, records batches, and stops at one of the hooks."""

    def __init__(self, run: Run, stop: int | None, by: str) -> None:
        self.run, self.stop, self.by, self.seen = run, stop, by, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.run.batches[trainer.fit_loop.total_batch_idx] = list(_numbers(batch))
        self.hook()

    def hook(self, *_: Any, **__: Any) -> None:
        self.seen += 1
        if self.seen - 1 != self.stop:
            return
        if self.by == "exception":
            raise _Stopped
        os.kill(os.getpid(), signal.SIGINT if self.by == "signal" else signal.SIGTERM)


for _name in HOOKS:
    if _name not in vars(_Watcher):
        setattr(_Watcher, _name, _Watcher.hook)


class _Saved(Checkpoint):
    """Keeps a copy of every file that AtomicCheckpoint wrote, with what had been told by then. A Checkpoint: it comes last."""

    def __init__(self, saver: AtomicCheckpoint, run: Run, folder: Path) -> None:
        self.saver, self.run, self.folder, self.copies = saver, run, folder, []

    def take(self) -> None:
        path = Path(self.saver.last_model_path)
        if path.is_file():
            content = path.read_bytes()
            if not self.copies or self.copies[-1][0] != content:
                told = {key: set(values) for key, values in self.run.points.items()}
                # features and replays, which a kill leaves behind too
                others = {p: p.read_bytes() for p in self.folder.rglob("*") if p.is_file() and p.suffix != ".ckpt"}
                self.copies.append((content, told, dict(self.run.batches), others))


class _Writer:
    """Stands for TensorBoard's writer: every call is a point."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __getattr__(self, name: str) -> Callable[..., None]:
        def add(tag: Any = "", value: Any = None, step: int | None = None, *_: Any, **kwargs: Any) -> None:
            if name == "add_summary":  # of the writer's file: (what it holds, step)
                self.run.points.setdefault((f"{name} {tag.value[0].tag}", value), set()).add("drawn")
            elif name == "add_scalar":
                self.run.points.setdefault((tag, kwargs.get("global_step", step)), set()).add(repr(float(value)))
            elif name in ("add_image", "add_histogram", "add_figure", "add_text"):
                self.run.points.setdefault((f"{name} {tag}", kwargs.get("global_step", step)), set()).add("drawn")

        return add

    def _get_file_writer(self) -> _Writer:
        return self


class _Logger(TensorBoardLogger):
    def __init__(self, folder: Path, run: Run) -> None:
        super().__init__(folder, name="", version="", default_hp_metric=False)
        self._writer = _Writer(run)

    @property
    def experiment(self) -> Any:
        return self._writer

    def save(self) -> None:
        pass

    def finalize(self, status: str) -> None:
        pass


def _fit(
    case: Case, folder: Path, run: Run, ckpt: Path | None = None, stop: int | None = None, by: str = "kill"
) -> Any:
    seed_everything(5 if ckpt is None else 6, verbose=False)  # a resumed run must not depend on the seed of its process
    module, data = case.module(), case.data()
    saver = AtomicCheckpoint(str(folder), every_n_batches=1, every_n_epochs=1, every_seconds=None)
    watcher, kept = _Watcher(run, stop, by), _Saved(saver, run, folder)
    options = {"max_epochs": 3, "log_every_n_steps": 4, "num_sanity_val_steps": 1, **case.trainer}
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=_Logger(folder, run), enable_progress_bar=False, enable_model_summary=False,
        callbacks=[RNGState(), *case.callbacks(), watcher, GracefulStop(), saver], **options,
    )  # fmt: skip
    save = saver._save

    def saving(trainer: Trainer, name: str) -> None:
        save(trainer, name)
        kept.take()

    saver._save = saving
    arguments = (
        {"datamodule": data}
        if not isinstance(data, tuple)
        else {"train_dataloaders": data[0], "val_dataloaders": data[1]}
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, **arguments, ckpt_path=ckpt, weights_only=True)
    except _Stopped:
        pass
    run.hooks = watcher.seen
    last = folder / "last.ckpt"
    if last.is_file():
        run.final = torch.load(last, weights_only=True)
        for rank in run.final.get("control", ()):
            if rank["content"]:
                rank["content"] = _slots(module._replay._ring, rank["content"])
    return kept.copies


def whole_run(case: Case, folder: Path) -> tuple[Run, list[Any]]:
    """The uninterrupted run and the files that it wrote on its way."""
    run = Run({}, {}, {})
    copies = _fit(case, folder, run)
    return run, copies


def resumed_everywhere(case: Case, folder: Path, every: int = 1, start: int = 0) -> Iterator[tuple[str, Run, Run]]:
    """(name, whole run, run that was killed and went on) for each file that the whole run wrote, or every n-th."""
    whole, copies = whole_run(case, folder / "whole")
    for number, (content, told, batches, others) in list(enumerate(copies))[start::every]:
        part = folder / f"kill_{number}"
        part.mkdir()
        for other, written in others.items():
            copy = part / other.relative_to(folder / "whole")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(written)
        (part / "last.ckpt").write_bytes(content)
        run = Run({}, dict(batches), told)
        _fit(case, part, run, ckpt=part / "last.ckpt")
        yield f"killed after file {number}", whole, run


def stopped_everywhere(
    case: Case, folder: Path, by: str, every: int = 1, start: int = 0
) -> Iterator[tuple[str, Run, Run]]:
    """The same for a stop at each hook, or every n-th, by "exception", "signal" (SIGINT) or "term" (SIGTERM)."""
    whole, _ = whole_run(case, folder / "whole")
    for hook in range(start, whole.hooks, every):
        part = folder / f"{by}_{hook}"
        run = Run({}, {}, {})
        _fit(case, part, run, stop=hook, by=by)
        last = part / "last.ckpt"
        _fit(case, part, run, ckpt=last if last.is_file() else None)
        yield f"{by} at hook {hook}", whole, run


def differences(whole: Run, run: Run) -> list[str]:
    """What differs between two runs, at most a few lines."""
    for each in (whole, run):  # where a loader stands at the end of an epoch is not read by anybody
        each.final["loops"]["fit_loop"]["state_dict"].pop("combined_loader", None)
    found = list(_compare(whole.final, run.final, "checkpoint"))
    found += [f"batch {n} differs" for n in sorted(whole.batches.keys() | run.batches.keys())
              if whole.batches.get(n) != run.batches.get(n)]  # fmt: skip
    for key in sorted(whole.points.keys() | run.points.keys(), key=str):
        a, b = whole.points.get(key), run.points.get(key)
        if a != b and (key[0] not in _TIMED or not a or not b):
            found.append(f"point {key}: {a} in the whole run, {b} in the resumed one")
    return found[:12]


def _slots(ring: FrameRing, content: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint's replay holds, read from its log; how that is divided into files is nobody's matter."""
    records = np.concatenate(list(log.read(Path(content["folder"]), content["segments"], ring.record)))
    e, slot, count = records["stream"], records["slot"], np.array(content["count"])
    live = (slot >= count[e] - ring.length) & (slot < count[e])
    assert live.sum() == np.minimum(count, ring.length).sum()
    whole = records[live][np.lexsort((slot[live], e[live]))]
    return {"count": content["count"], "slots": hashlib.sha256(whole.tobytes()).hexdigest()}


def _numbers(batch: Any) -> Iterator[float | str]:
    if isinstance(batch, dict | list | tuple):
        for part in batch.values() if isinstance(batch, dict) else batch:
            yield from _numbers(part)
    elif isinstance(batch, torch.Tensor | int | float):
        # a trial without an outcome has its time as NaN, which is not equal to itself
        yield from ("nan" if x != x else x for x in torch.as_tensor(batch).double().flatten().tolist())


def _compare(a: Any, b: Any, where: str) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            if key not in a or key not in b:
                yield f"{where}[{key!r}] is only in the {'whole' if key in a else 'resumed'} run"
            elif not str(key).endswith(_TIMED):
                yield from _compare(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _compare(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
        if not same:
            yield f"{where}: tensors differ"
    elif a != b and not (a != a and b != b):
        yield f"{where}: {a!r} and {b!r}"
