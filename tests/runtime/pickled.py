"""What the pickle inside a checkpoint says by name."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

__all__ = ["names_in"]


def names_in(checkpoint: Path, word: str = "plasticity_lightning") -> set[str]:
    """Every string and every global in the raw pickle of a file of `torch.save` that mentions `word`."""
    with zipfile.ZipFile(checkpoint) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        content = archive.read(name)
    return {str(argument) for _, argument, _ in pickletools.genops(content) if word in str(argument)}
