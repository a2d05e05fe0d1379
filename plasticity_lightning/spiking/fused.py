"""Differentiable sequences of spiking neurons by the Triton kernels: [T, ...] in, [T, ...] out, gradients for input and initial state.

Triton is imported when a sequence is first run; nothing here needs it before.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor

__all__ = ["fused_capacitance", "fused_izhikevich", "fused_lif"]

_SURROGATES = {
    surrogate.Sigmoid: 0,
    surrogate.ATan: 1,
}  # those whose derivative the kernels know; torch computes any other
_GIVEN = 2
_BLOCK = 256
_EXACT = {"enable_fp_fusion": False}  # a contracted product and sum would round once less than torch does


def fused_lif(
    x: Tensor,
    v: Tensor,
    rest: Tensor,
    tau: float,
    v_threshold: float,
    v_reset: float,
    refractory: int,
    spike_function: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """`neurons.lif_step` over x float32 [T, ...]; returns (spikes [T, ...], v, rest)."""
    return _LIF.apply(x, v, rest, tau, v_threshold, v_reset, refractory, spike_function)


def fused_izhikevich(
    x: Tensor,
    v: Tensor,
    u: Tensor,
    cells: Tensor,
    dt: float,
    substeps: int,
    clamp: bool,
    spike_function: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """`izhikevich.izhikevich_step` over x float32 [T, ...]; returns (spikes [T, ...], v, u).

    `cells` float32 [5, F] holds a, b, c, d and bias; F divides the number of neurons, whose last axes it spans. `substeps` is 1 or 2.
    """
    return _Izhikevich.apply(x, v, u, cells, dt, substeps, clamp, spike_function)


def fused_capacitance(
    x: Tensor, v: Tensor, u: Tensor, cells: Tensor, dt: float, spike_function: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """`izhikevich.izhikevich_capacitance_step` over x float32 [T, ...]; returns (spikes [T, ...], v, u).

    `cells` float32 [10, F] holds the parameters in the order of `CapacitanceIzhikevich`.
    """
    return _Capacitance.apply(x, v, u, cells, dt, spike_function)


def _grid(n: int) -> tuple[int]:
    return ((n + _BLOCK - 1) // _BLOCK,)


def _surrogate(function: Callable[[Tensor], Tensor], above: Callable[[], Tensor]) -> tuple[Tensor | None, float, int]:
    """(derivative that torch computed or None, alpha, number of the surrogate in the kernels)."""
    number = _SURROGATES.get(type(function), _GIVEN)
    if number != _GIVEN:
        return None, float(function.alpha), number  # type: ignore[attr-defined]
    with torch.enable_grad():
        at = above().detach().requires_grad_()
        (derivative,) = torch.autograd.grad(function(at).sum(), at)
    return derivative.contiguous(), 0.0, _GIVEN


class _LIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v: Tensor,
        rest: Tensor,
        tau: float,
        threshold: float,
        reset: float,
        refractory: int,
        function: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        from plasticity_lightning.spiking._triton_kernels import lif_forward

        x, v, rest = x.contiguous(), v.contiguous(), rest.contiguous()
        n = prod(x.shape[1:])
        spikes, charged, ready = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x, dtype=torch.int8)
        v_last, rest_last = torch.empty_like(v), torch.empty_like(rest)
        if x.numel():
            # torch divides by a number on CUDA as a product with its reciprocal
            lif_forward[_grid(n)](
                x, v, rest, spikes, charged, ready, v_last, rest_last,
                len(x), n, tau, 1.0 / tau, threshold, reset, refractory, x.is_cuda, _BLOCK, **_EXACT,
            )  # fmt: skip
        ctx.save_for_backward(charged, ready)
        ctx.options = (tau, threshold, function)
        ctx.mark_non_differentiable(rest_last)
        return spikes, v_last, rest_last

    @staticmethod
    def backward(ctx: Any, gs: Tensor, gv: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        from plasticity_lightning.spiking._triton_kernels import lif_backward

        charged, ready = ctx.saved_tensors
        tau, threshold, function = ctx.options
        given, alpha, number = _surrogate(function, lambda: charged - threshold)
        gx, gv_first = torch.empty_like(charged), torch.empty_like(gv, memory_format=torch.contiguous_format)
        if charged.numel():
            n = prod(charged.shape[1:])
            lif_backward[_grid(n)](
                gs.contiguous(), gv.contiguous(), charged, ready, charged if given is None else given, gx, gv_first,
                len(charged), n, 1.0 / tau, threshold, alpha, number, _BLOCK, **_EXACT,
            )  # fmt: skip
        return gx, gv_first, None, None, None, None, None, None


class _Izhikevich(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor, u: Tensor, cells: Tensor, dt: float, substeps: int, clamp: bool, function: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        from plasticity_lightning.spiking._triton_kernels import izhikevich_forward

        x, v, u, cells = x.contiguous(), v.contiguous(), u.contiguous(), cells.contiguous()
        spikes, charged, v_seq, u_seq = (torch.empty_like(x) for _ in range(4))
        v_last, u_last = torch.empty_like(v), torch.empty_like(u)
        n = prod(x.shape[1:])
        if x.numel():
            izhikevich_forward[_grid(n)](
                x, v, u, cells, spikes, charged, v_seq, u_seq, v_last, u_last,
                len(x), n, cells.shape[1], dt, dt / substeps, substeps, clamp, _BLOCK, **_EXACT,
            )  # fmt: skip
        ctx.save_for_backward(x, cells, charged, v_seq, u_seq)
        ctx.options = (dt, substeps, clamp, function)
        return spikes, v_last, u_last

    @staticmethod
    def backward(ctx: Any, gs: Tensor, gv: Tensor, gu: Tensor) -> tuple[Tensor | None, ...]:
        from plasticity_lightning.spiking._triton_kernels import izhikevich_backward
        from plasticity_lightning.spiking.izhikevich import V_PEAK

        x, cells, charged, v_seq, u_seq = ctx.saved_tensors
        dt, substeps, clamp, function = ctx.options
        given, alpha, number = _surrogate(function, lambda: charged - V_PEAK)
        gx, gv_first, gu_first = torch.empty_like(x), torch.empty_like(x[0]), torch.empty_like(x[0])
        if x.numel():
            n = prod(x.shape[1:])
            izhikevich_backward[_grid(n)](
                gs.contiguous(), gv.contiguous(), gu.contiguous(), x, cells, charged, v_seq, u_seq,
                charged if given is None else given, gx, gv_first, gu_first,
                len(x), n, cells.shape[1], dt, dt / substeps, alpha, substeps, clamp, number, _BLOCK, **_EXACT,
            )  # fmt: skip
        return gx, gv_first, gu_first, None, None, None, None, None


class _Capacitance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor, u: Tensor, cells: Tensor, dt: float, function: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        from plasticity_lightning.spiking._triton_kernels import capacitance_forward

        x, v, u, cells = x.contiguous(), v.contiguous(), u.contiguous(), cells.contiguous()
        spikes, charged, v_seq, u_seq = (torch.empty_like(x) for _ in range(4))
        v_last, u_last = torch.empty_like(v), torch.empty_like(u)
        n = prod(x.shape[1:])
        if x.numel():
            capacitance_forward[_grid(n)](
                x,
                v,
                u,
                cells,
                spikes,
                charged,
                v_seq,
                u_seq,
                v_last,
                u_last,
                len(x),
                n,
                cells.shape[1],
                dt,
                _BLOCK,
                **_EXACT,
            )
        ctx.save_for_backward(cells, charged, v_seq)
        ctx.options = (dt, function)
        return spikes, v_last, u_last

    @staticmethod
    def backward(ctx: Any, gs: Tensor, gv: Tensor, gu: Tensor) -> tuple[Tensor | None, ...]:
        from plasticity_lightning.spiking._triton_kernels import capacitance_backward

        cells, charged, v_seq = ctx.saved_tensors
        dt, function = ctx.options
        v_peak = cells[4].expand(charged[0].numel() // cells.shape[1], -1).reshape(charged.shape[1:])
        given, alpha, number = _surrogate(function, lambda: charged - v_peak)
        gx, gv_first, gu_first = torch.empty_like(charged), torch.empty_like(charged[0]), torch.empty_like(charged[0])
        if charged.numel():
            n = prod(charged.shape[1:])
            capacitance_backward[_grid(n)](
                gs.contiguous(), gv.contiguous(), gu.contiguous(), cells, charged, v_seq,
                charged if given is None else given, gx, gv_first, gu_first,
                len(charged), n, cells.shape[1], dt, alpha, number, _BLOCK, **_EXACT,
            )  # fmt: skip
        return gx, gv_first, gu_first, None, None, None
