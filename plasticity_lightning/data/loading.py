"""How batches are formed: splits of a file by position, an order per epoch, and one DataLoader for all data modules.

Data sets here form a whole batch at once (`__getitems__`, usually one `index_select`), so there is no work per item.
The order of an epoch is a function of (seed, epoch) alone.
"""

from collections.abc import Sized
from typing import Any

from torch.utils.data import DataLoader, Dataset

from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.runtime.loaders import ResumableDataLoader, SeededSampler

__all__ = ["batch_loader", "check_loader_arguments", "limited", "split_sizes"]


def batch_loader(dataset: Dataset[Any], batch_size: int, shuffle: bool, seed: int, num_workers: int) -> DataLoader[Any]:
    """DataLoader over a data set whose `__getitems__` returns a finished batch.

    Args:
        dataset: has `__len__` and `__getitems__(list of int) -> batch`.
        batch_size: items a batch; the last one may be smaller.
        shuffle: a new order in each epoch, else file order.
        seed: of the order, which is a function of (seed, epoch).
        num_workers: worker processes; 0 is the fastest for data in memory.
    """
    assert isinstance(dataset, Sized)
    return ResumableDataLoader(
        dataset,
        batch_size=batch_size,
        sampler=SeededSampler(len(dataset), seed, shuffle),
        num_workers=num_workers,
        collate_fn=_unchanged,
        persistent_workers=num_workers > 0,
    )


def split_sizes(n_file: int, val_size: int | float) -> tuple[int, int]:
    """Sizes of the training and the validation part of a training file: the last items are for validation.

    Args:
        n_file: items in the training file.
        val_size: a number of items (int, 0..n_file-1), or a share of the file (float, 0 <= share < 1).

    Returns:
        (training items, validation items).

    Raises:
        DataArgumentError: if nothing would be left for training, or `val_size` is negative.
    """
    if isinstance(val_size, float):
        if not 0 <= val_size < 1:
            raise DataArgumentError(
                f"val_size={val_size}: as a share (float) it must be at least 0 and below 1; "
                "a number of items is an integer."
            )
        n_val = round(n_file * val_size)
    else:
        n_val = val_size
    if not 0 <= n_val < n_file:
        raise DataArgumentError(
            f"val_size={val_size}: the training file has {n_file} items; allowed are 0 to {n_file - 1}, "
            "so that at least one is left for training."
        )
    return n_file - n_val, n_val


def limited(name: str, limit: int | None, size: int) -> int:
    """Number of items that `limit` leaves of `size`; refuses a limit above the size, which would go unnoticed."""
    if limit is None:
        return size
    if limit > size:
        raise DataArgumentError(f"{name}={limit}: that split has only {size} items; give at most {size}, or null.")
    return limit


def check_loader_arguments(
    batch_size: int, num_workers: int, seed: int, limits: dict[str, int | None], val_size: int | float
) -> None:
    """Refuse values that are wrong whatever the data are.

    Raises:
        DataArgumentError: naming the argument, its value and what is allowed.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0), ("seed", seed, 0)):
        if value < least:
            raise DataArgumentError(f"{name}={value}: must be an integer of at least {least}.")
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise DataArgumentError(f"{name}={limit}: must be at least 1, or null for all items of the split.")
    if val_size < 0:
        raise DataArgumentError(f"val_size={val_size}: must not be negative.")


def _unchanged(batch: Any) -> Any:
    return batch
