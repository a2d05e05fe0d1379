"""Tensors and dataclasses as the compiled engines take them."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from plasticity_lightning.spiking.liquid.contract import NeuronParameters
from plasticity_lightning.spiking.rules import STDP

__all__ = ["copied", "floats"]


def floats(parameters: STDP | NeuronParameters) -> dict[str, float]:
    """The fields of a parameter dataclass; whole numbers given for floats would compile the kernel anew."""
    return {name: float(value) for name, value in vars(parameters).items()}


def copied(part: Tensor | None) -> np.ndarray:
    """A float64 array of its own, of size 0 where there is no tensor."""
    return np.empty(0) if part is None else part.double().numpy().copy()
