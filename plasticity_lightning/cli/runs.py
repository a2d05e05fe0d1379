"""Run directories: `<root>/version_N`, one per run, claimed atomically and never reused by another run.

A run keeps its event files, `config.yaml` and `checkpoints/` in its own version folder. `--ckpt_path last` and `best`
name a checkpoint in the newest version folder that has one, and a resumed `fit` goes on in that same folder.
"""

import re
from pathlib import Path

from plasticity_lightning.errors import UserError

__all__ = ["claim_run_dir", "resolve_checkpoint", "version_dirs"]


def version_dirs(root: Path) -> list[Path]:
    """The folders `version_N` below `root`, newest (largest N) first."""
    if not root.is_dir():
        return []
    numbered = [
        (int(match[1]), path) for path in root.iterdir() if (match := re.fullmatch(r"version_(\d+)", path.name))
    ]
    return [path for _, path in sorted(numbered, reverse=True) if path.is_dir()]


def claim_run_dir(root: Path) -> Path:
    """Create and return the next free `version_N`; two processes never get the same one.

    Raises:
        UserError: if no folder can be made there.
    """
    try:
        return _claim(root)
    except OSError as error:
        raise UserError(
            f"no run folder can be made in {root}: {error.strerror or error}; give another --trainer.default_root_dir"
        ) from error


def _claim(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    newest = version_dirs(root)
    number = int(newest[0].name.removeprefix("version_")) + 1 if newest else 0
    while True:
        path = root / f"version_{number}"
        try:
            path.mkdir()  # atomic: fails if another run was faster
        except FileExistsError:
            number += 1
        else:
            return path


def resolve_checkpoint(root: Path, which: str) -> tuple[Path, Path]:
    """The checkpoint `last` or `best` of the newest run that has one.

    Args:
        root: folder of the `version_N` folders.
        which: "last" or "best".

    Returns:
        (checkpoint, run folder).

    Raises:
        UserError: if no run below `root` has such a checkpoint; says where it looked.
    """
    for run in version_dirs(root):
        checkpoint = run / "checkpoints" / f"{which}.ckpt"
        if checkpoint.is_file():
            return checkpoint, run
    raise UserError(
        f"--ckpt_path {which}: no {root}/version_*/checkpoints/{which}.ckpt; train first with `plasticity fit`, "
        "or give --trainer.default_root_dir of the run or the path of a checkpoint"
    )
