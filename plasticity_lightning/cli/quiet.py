"""Keeps off the terminal what nobody at the keyboard can act on: advertisements, other packages' deprecations, wrong advice.

Only named messages are dropped; any other warning of the same packages passes.
"""

from __future__ import annotations

import logging
import re
import warnings

__all__ = ["quieten", "quieten_workers"]

_MESSAGES = (
    r"\U0001f4a1 Tip:",  # advertises a logger or a model registry
    r"TPU available: False|HPU available: False",
    r"Restor(ing|ed all) states? from the checkpoint path? at",  # the command has said which
)
_WORKERS = r".*does not have many workers"
_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\)",  # Lightning calls what torch has deprecated
    r"Sparse CSR tensor support is in beta state",  # whoever asks for CSR has read so
    r"(?s)\s*.*deprecated in v4\.\d+\.\d+ and will be removed in v5",  # Lightning calls what jsonargparse has deprecated
)


def quieten() -> None:
    """Filter them from now on, in this process."""
    for pattern in _WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero", "lightning.pytorch"):
        logger = logging.getLogger(name)
        if _dropped not in logger.filters:
            logger.addFilter(_dropped)


def quieten_workers() -> None:
    """Drop the advice to use more workers from now on: for data in memory, which are given fastest without."""
    warnings.filterwarnings("ignore", message=_WORKERS)


def _dropped(record: logging.LogRecord) -> bool:
    return not any(re.match(pattern, record.getMessage()) for pattern in _MESSAGES)
