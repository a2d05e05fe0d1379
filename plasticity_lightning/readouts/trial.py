"""Rules over all samples of a trial at once.

The step functions of `three_factor` and `lms`, compiled, lanes in threads; recursive least squares has
`rls.rls_block_step`.

Equal to a loop over the step functions up to the order of additions. Shapes: weight [L, R, N], x [L, T, N], target
[L, T, R], gate [L, T] or [L, T, R]. On tensors that are not on the CPU the step functions themselves run.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from plasticity_lightning.readouts.eligibility import eligibility_traces
from plasticity_lightning.readouts.modulation import ERRORS, Modulation
from plasticity_lightning.readouts.three_factor import ThreeFactor, three_factor_step

__all__ = ["three_factor_over_trial"]


def three_factor_over_trial(
    state: ThreeFactor,
    x: Tensor,
    target: Tensor,
    gate: Tensor,
    eta: float = 0.3,
    power: float = 1.0,
    modulation: Modulation = Modulation(),  # noqa: B008 - frozen
    threads: int = 1,
) -> tuple[ThreeFactor, Tensor]:
    """`three_factor_step` over T samples; with an eligibility of delay 0 this is `lms_step`.

    Args:
        state: weights [L, R, N] and eligibility.
        x: inputs [L, T, N].
        target: [L, T, R].
        gate: [L, T] or [L, T, R].
        eta: learning rate.
        power: floor of the normaliser.
        modulation: of the error.
        threads: over lanes.

    Returns:
        (state after the trial, outputs [L, T, R], each before its sample's change).

    Raises:
        ValueError: if shapes disagree.
    """
    gate = _checked(state.weight, x, target, gate)
    if not _compiles(state.weight, x):
        return _stepwise(
            lambda s, x, y, g: three_factor_step(s, x, y, g, eta, power, modulation), state, x, target, gate
        )
    from plasticity_lightning.readouts._trial_kernel import delta_trial  # numba is slow to import

    eligibility, trace = eligibility_traces(state.eligibility, x)
    weight, output = state.weight.clone(), torch.empty_like(target)
    kind = list(ERRORS).index(modulation.error)
    arrays = [_array(a) for a in (weight, x, trace, target, gate)]
    out = output.numpy()

    def run(lane: int) -> None:
        w, now, then, wanted, passed = (a[lane] for a in arrays)
        delta_trial(w, now, then, wanted, passed, eta, power, kind, modulation.gain, out[lane])

    _over_lanes(run, len(x), threads)
    return ThreeFactor(torch.from_numpy(arrays[0]), eligibility), output


def _checked(weight: Tensor, x: Tensor, target: Tensor, gate: Tensor) -> Tensor:
    """The gate as [L, T, R], of the type of x."""
    lanes, rows, n = weight.shape
    if x.shape[0] != lanes or x.shape[2] != n or target.shape != (lanes, x.shape[1], rows):
        raise ValueError(
            f"weight [L, R, N] {tuple(weight.shape)} needs x [L, T, N] and target [L, T, R]; they are {tuple(x.shape)} and {tuple(target.shape)}"
        )
    gate = gate[..., None] if gate.dim() == 2 else gate
    return gate.to(x.dtype).expand(target.shape)


def _compiles(weight: Tensor, x: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == x.dtype and x.dtype in (torch.float32, torch.float64)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _over_lanes(run: Callable[[int], None], lanes: int, threads: int) -> None:
    if threads <= 1 or lanes == 1:
        for lane in range(lanes):
            run(lane)
        return
    with ThreadPoolExecutor(min(threads, lanes)) as pool:
        list(pool.map(run, range(lanes)))


def _stepwise(step: Callable, state, x: Tensor, target: Tensor, gate: Tensor):  # type: ignore[no-untyped-def]
    outputs = []
    for t in range(x.shape[1]):
        state, output = step(state, x[:, t], target[:, t], gate[:, t])
        outputs.append(output)
    return state, torch.stack(outputs, 1)
