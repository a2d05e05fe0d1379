"""Back ends of spiking nodes: `torch`, a loop of tensor operations, and `triton`, one fused kernel over all time steps.

Since version 2.0 SpikingJelly picks a kernel by device and has no such choice; here it stays a property, as both back ends run on a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, get_args

import torch
from spikingjelly.activation_based import base
from torch import Tensor, nn

from plasticity_lightning.errors import nearest

__all__ = ["Backend", "BackendNode", "set_backend"]

Backend = Literal["torch", "triton"]


class BackendNode(base.MemoryModule):
    """A spiking node with a choice of back end, equal spike for spike.

    Attributes:
        backend: "torch" or "triton"; the latter takes float32 tensors on CUDA (or on the CPU under TRITON_INTERPRET=1, for tests).
    """

    surrogate_function: Callable[[Tensor], Tensor]

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """The names that `backend` takes."""
        return get_args(Backend)

    @property
    def backend(self) -> Backend:
        """Which back end runs the node."""
        return self._backend

    @backend.setter
    def backend(self, value: Backend) -> None:
        if value not in self.supported_backends:
            raise ValueError(
                f"backend={value!r} must be one of {self.supported_backends}{nearest(str(value), self.supported_backends)}"
            )
        self._backend: Backend = value

    def check_fused(self, x: Tensor) -> None:
        """Refuse what the fused kernels cannot do.

        Raises:
            ValueError: if x is not float32 or not on CUDA, or the surrogate function is set to its primitive.
        """
        if x.dtype != torch.float32:
            raise ValueError(f"backend='triton' takes float32, got {x.dtype}; use backend='torch'")
        if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError(
                f"backend='triton' needs tensors on CUDA, got one on {x.device}; use backend='torch' there"
            )
        if not getattr(self.surrogate_function, "spiking", True):
            raise ValueError(
                "backend='triton' emits spikes; the surrogate function has spiking=False: use backend='torch'"
            )


def set_backend(net: nn.Module, backend: Backend, instance: type[nn.Module] = BackendNode) -> None:
    """Set the back end of all nodes of `net` that are of the class `instance`.

    Raises:
        ValueError: if a node does not know the back end.
    """
    for module in net.modules():
        if isinstance(module, instance) and isinstance(module, BackendNode):
            module.backend = backend
