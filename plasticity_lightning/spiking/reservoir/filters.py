"""Synaptic filters of the reservoir: how the charges that spikes bring become currents.

Both kinds are two exponentials for excitatory charge and one for inhibitory, so that every engine has one form of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

__all__ = ["DoubleExponential", "SplitExponentials"]


@dataclass(frozen=True)
class SplitExponentials:
    """Excitatory charge goes into a fast and a slow exponential, inhibitory charge into one of its own; a jump is charge / tau.

    Args:
        fast: time constant in ms, positive.
        slow: time constant in ms, positive.
        fast_fraction: of the excitatory charge, in [0, 1]; the rest is slow.
        inhibitory: time constant in ms, positive.
    """

    fast: float = 5.0
    slow: float = 50.0
    fast_fraction: float = 0.1
    inhibitory: float = 10.0

    def __post_init__(self) -> None:
        for name in ("fast", "slow", "inhibitory"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive, in ms")
        if not 0 <= self.fast_fraction <= 1:
            raise ValueError(f"fast_fraction={self.fast_fraction} must lie in [0, 1]")

    def coefficients(self, dt: float) -> tuple[float, float, float, float, float, float]:
        """(decay, jump per unit of charge) of the first, second and inhibitory current, for a step of dt ms."""
        return (
            exp(-dt / self.fast),
            self.fast_fraction / self.fast,
            exp(-dt / self.slow),
            (1.0 - self.fast_fraction) / self.slow,
            exp(-dt / self.inhibitory),
            1.0 / self.inhibitory,
        )


@dataclass(frozen=True)
class DoubleExponential:
    """Every charge, of either sign, passes one filter that rises and decays: (exp(-t/decay) - exp(-t/rise)) / (decay - rise).

    Args:
        rise: time constant in ms, positive.
        decay: time constant in ms, above `rise`.
    """

    rise: float = 2.0
    decay: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.rise < self.decay:
            raise ValueError(f"rise={self.rise} and decay={self.decay} must satisfy 0 < rise < decay, in ms")

    def coefficients(self, dt: float) -> tuple[float, float, float, float, float, float]:
        """As `SplitExponentials.coefficients`; inhibitory neurons do not differ here."""
        scale = 1.0 / (self.decay - self.rise)
        rise, decay = exp(-dt / self.rise), exp(-dt / self.decay)
        return rise, -scale, decay, scale, 1.0, 0.0
