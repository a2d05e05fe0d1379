"""Where the replay of a run lies: beside its checkpoints, one folder a rank, shared by all of them.

A checkpoint holds only what `FrameReplay.append_to` says of its part of the log. What no checkpoint in place names any
more is dropped when the next one is written.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch import Trainer

from plasticity_lightning.control.replay import FrameReplay
from plasticity_lightning.errors import UserError
from plasticity_lightning.runtime.checkpoint import AtomicCheckpoint

__all__ = ["ReplayFolder"]


class ReplayFolder:
    """Saves and restores the content of a replay.

    Args:
        trainer: whose checkpoints the replay belongs to.
        replay: the replay of this rank.
    """

    def __init__(self, trainer: Trainer, replay: FrameReplay) -> None:
        self._trainer, self._replay = trainer, replay

    def check_disk(self) -> None:
        """Refuse a disk without room for the whole replay. See `RingLog.check_disk`."""
        self._replay.check_disk(self._own())

    def save(self) -> dict[str, Any]:
        """Append what is new; what the checkpoint has to hold of it."""
        folder = self._own()
        # what no checkpoint in place refers to any more: overwritten frames, and tails that a kill left behind
        with suppress(OSError, EOFError, RuntimeError, UnpicklingError):  # what cannot be read may refer to anything
            self._replay.drop_unreferenced(folder, self._contents(folder.parents[1]))
        return {"folder": str(folder), **self._replay.append_to(folder)}

    def load(self, content: dict[str, Any]) -> None:
        """Fill the replay with the content that `save` described, also where it moved with its checkpoint.

        Raises:
            UserError: if it is the content of another replay, or damaged.
        """
        moved = self._of_rank(Path(str(self._trainer.ckpt_path)).parent)
        try:
            self._replay.restore(moved if moved.is_dir() else Path(content["folder"]), content)
        except ValueError as error:
            raise UserError(
                f"{error}; resume with the saved one, or with replay.checkpoint=false and an empty replay"
            ) from error

    def _own(self) -> Path:
        saver = next((c for c in self._trainer.callbacks if isinstance(c, AtomicCheckpoint)), None)
        beside = Path(saver.last_model_path).parent if saver is not None and saver.last_model_path else None
        return self._of_rank(beside or Path(self._trainer.log_dir or self._trainer.default_root_dir))

    def _of_rank(self, checkpoints: Path) -> Path:
        return checkpoints.resolve() / "replay" / f"rank_{self._trainer.global_rank}"

    def _contents(self, checkpoints: Path) -> list[dict[str, Any]]:
        contents, rank = [], self._trainer.global_rank
        for path in checkpoints.glob("*.ckpt"):
            # mapped, not read: a few kilobytes of many megabytes are looked at
            states = torch.load(path, map_location="cpu", mmap=True, weights_only=True).get("control") or []
            if len(states) > rank and states[rank]["content"]:
                contents.append(states[rank]["content"])
        return contents
