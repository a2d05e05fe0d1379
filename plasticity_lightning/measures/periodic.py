"""How well a generated signal repeats a periodic one: its frequency, its size and its shape, whatever its phase.

A free-running generator drifts in phase, so the plain correlation with its target says little; the best one over lags
within a period tells the shape. Shapes: signals [T] at a constant step of dt ms.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["amplitude_ratio", "best_lag_correlation", "dominant_frequency"]


def dominant_frequency(signal: Tensor, dt: float) -> Tensor:
    """Frequency in Hz of the largest Fourier component but the constant, refined by a parabola through its neighbours; NaN for a constant signal.

    Args:
        signal: [T], T at least 4.
        dt: ms.

    Raises:
        ValueError: if the signal is too short.
    """
    if signal.dim() != 1 or len(signal) < 4:
        raise ValueError(f"signal must be [T] with T at least 4, got {tuple(signal.shape)}")
    centred = signal.double() - signal.double().mean()
    if not bool(centred.abs().max() > 1e-12):
        return torch.tensor(torch.nan, dtype=torch.float64)
    window = torch.hann_window(len(signal), periodic=False, dtype=torch.float64)
    power = torch.fft.rfft(centred * window).abs().clamp(min=1e-300).log()
    k = int(power[1:-1].argmax()) + 1
    left, middle, right = power[k - 1], power[k], power[k + 1]
    shift = 0.5 * (left - right) / (left - 2 * middle + right)
    return (k + shift) * 1000.0 / (dt * len(signal))


def amplitude_ratio(signal: Tensor, target: Tensor) -> Tensor:
    """Standard deviation of the signal over that of the target; NaN for a constant target."""
    deviation = target.double().std(correction=0)
    return torch.where(deviation > 0, signal.double().std(correction=0) / deviation, torch.nan)


def best_lag_correlation(signal: Tensor, target: Tensor, lags: int) -> Tensor:
    """Largest correlation of the signal with the target shifted by 0 to `lags` steps either way.

    NaN where either is constant.

    Args:
        signal: [T].
        target: [T].
        lags: at least 0 and below T / 2; half a period reaches every phase.

    Raises:
        ValueError: if shapes disagree or lags is out of range.
    """
    if signal.shape != target.shape or signal.dim() != 1 or not 0 <= lags < len(signal) / 2:
        raise ValueError(
            f"signal {tuple(signal.shape)} and target {tuple(target.shape)} must be [T], and lags={lags} in [0, T / 2)"
        )
    inner = signal.double()[lags : len(signal) - lags]
    shifted = target.double().unfold(0, len(inner), 1)  # [2 lags + 1, T - 2 lags]
    a, b = inner - inner.mean(), shifted - shifted.mean(1, keepdim=True)
    norm = a.norm() * b.norm(dim=1)
    r = torch.where(norm > 0, (b @ a) / norm, torch.nan)
    return r.nan_to_num(-torch.inf).max() if bool(r.isfinite().any()) else r[0]
