"""The normalised three-factor rule: presynaptic eligibility, the readout's own error, an attention gate.

At every sample E is the eligibility of the input, and each readout moves by

    dw = eta g f(y - w . E) E / max(power, |E|^2),

f the modulation of the error. Since the error compares the target with the *lagged* readout, w . x runs ahead of the
target by the delay: it peaks at the onset of an event whose evoked response peaks a delay later, and rises before it.
With f the identity the fixed point is that of LMS on E.

Shapes as in `lms`. Source: an independent model, see docs/papers/prediction_object.md; three-factor rules: Gerstner
et al. 2018.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from plasticity_lightning.readouts.eligibility import Eligibility, EligibilityKind, eligibility_state, eligibility_step
from plasticity_lightning.readouts.lms import normalised_step
from plasticity_lightning.readouts.modulation import Modulation, modulated_error

__all__ = ["ThreeFactor", "three_factor_state", "three_factor_step"]


class ThreeFactor(NamedTuple):
    """State: weights [..., R, N] and the synapses' eligibility."""

    weight: Tensor
    eligibility: Eligibility


def three_factor_state(weight: Tensor, kind: EligibilityKind = "lag", delay: int = 12) -> ThreeFactor:
    """A state with these weights [..., R, N] and an empty eligibility; kind and delay as in `eligibility_state`."""
    return ThreeFactor(weight, eligibility_state(weight[..., 0, :], kind, delay))


def three_factor_step(
    state: ThreeFactor,
    x: Tensor,
    target: Tensor,
    gate: Tensor,
    eta: float = 0.3,
    power: float = 1.0,
    modulation: Modulation = Modulation(),  # noqa: B008 - frozen
) -> tuple[ThreeFactor, Tensor]:
    """One sample.

    Args:
        state: weights [..., R, N] and eligibility.
        x: input [..., N].
        target: evoked responses [..., R].
        gate: attention, 0 to 1, broadcastable to [..., R].
        eta: learning rate, positive; stable below 2.
        power: floor of the normaliser, positive.
        modulation: of the error.

    Returns:
        (state after the sample, output w . x [..., R] before it).
    """
    weight = state.weight
    output = (weight @ x[..., None])[..., 0]
    eligibility, trace = eligibility_step(state.eligibility, x)
    error = modulated_error(modulation, target - (weight @ trace[..., None])[..., 0])
    return ThreeFactor(weight + normalised_step(trace, gate * error, eta, power), eligibility), output
