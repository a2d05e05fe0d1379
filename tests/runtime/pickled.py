"""What the pickle inside a checkpoint says by name."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

__all__ = ["names_in"]


def names_in(checkpoint: Path, word: str = "plasticity_lightning") -> set[str]:
    """Every string and every global in the raw pickle of a file of `torch.save` that mentions `word`.

    Text of several lines is the recipe of the run, which is only compared with that of a command that goes on from it.
    """
    with zipfile.ZipFile(checkpoint) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        content = archive.read(name)
    said = {str(argument) for _, argument, _ in pickletools.genops(content)}
    return {name for name in said if word in name and "\n" not in name.strip()}
