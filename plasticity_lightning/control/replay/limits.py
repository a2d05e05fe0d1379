"""Is there room? Asked before anything is allocated, so that a run fails at its start and not at step 800,000."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from plasticity_lightning.errors import UserError

__all__ = ["available_memory", "check_disk", "check_room"]


def available_memory() -> int:
    """Bytes of main memory that this process may still take, by the system's account and its control group's."""
    available = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").is_file() and (limit := (group / "memory.max").read_text().strip()).isdigit():
        usage = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = int(usage["active_file"]) + int(usage["inactive_file"])  # given back when memory is wanted
        available = min(available, int(limit) - int((group / "memory.current").read_text()) + cached)
    return available


def check_room(storage: str, bytes_per_slot: int, capacity: int, folder: Path | None, device: torch.device) -> None:
    """Refuse a replay that does not fit.

    Args:
        storage: "memory", "memmap" or "device".
        bytes_per_slot: what one frame with its action, reward and so on takes.
        capacity: slots wanted.
        folder: where a memmap would lie.
        device: whose memory "device" means.

    Raises:
        UserError: naming what is needed, what there is and what would fit.
    """
    if storage == "memory" or (storage == "device" and device.type == "cpu"):
        place, free = "main memory", available_memory()
    elif storage == "memmap":
        assert folder is not None
        place, free = f"the file system of {folder}", shutil.disk_usage(folder).free
    else:
        place, free = f"memory of {device}", torch.cuda.mem_get_info(device)[0]
    other = "" if storage == "memmap" else ", or storage='memmap' if the disk has room"
    _compare(f"a replay of capacity={capacity} frames", capacity, bytes_per_slot, place, free, other)


def check_disk(bytes_per_slot: int, capacity: int, folder: Path, already: int) -> None:
    """Refuse a replay whose content, once it is full, does not fit beside the checkpoints.

    Args:
        bytes_per_slot: of a record on disk.
        capacity: slots of the replay.
        folder: where checkpoints will lie; it need not exist yet.
        already: bytes of the content that lie there now.

    Raises:
        UserError: naming what is needed, what there is and what would fit.
    """
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free + already
    what = f"the checkpointed content of a full replay of capacity={capacity} frames"
    _compare(what, capacity, bytes_per_slot, f"the file system of {folder}", free, "")


def _compare(what: str, capacity: int, bytes_per_slot: int, place: str, free: int, other: str) -> None:
    needed = bytes_per_slot * capacity
    if needed > free:
        raise UserError(
            f"{what} needs {_size(needed)}, {place} has {_size(free)} free: "
            f"capacity={int(0.9 * free / bytes_per_slot)} would fit{other}"
        )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"
