"""Updates of a network on inputs that stay where they are: k of them a launch, on a GPU recorded once as a CUDA graph.

An update that is launched kernel by kernel leaves a GPU waiting for Python. A CUDA graph records forward and backward
passes and optimiser steps once and launches them together, on the same addresses: inputs are copied into static
tensors, numbers that change from call to call live in tensors on the device, optimisers keep step and learning rate
there, random generators are registered with the graph, and nothing waits for the device. The first calls run eagerly on
a stream of their own, as torch demands; they are updates like any other. Without a GPU the same code runs unrecorded.

Source: PyTorch's notes on CUDA graphs ("Whole-network capture") and the documentation of `torch.cuda.CUDAGraph`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import fields
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity_lightning.errors import UserError

__all__ = ["StaticUpdates", "addresses", "plain_optimizer_states", "prepare_optimizers"]

Inputs = TypeVar("Inputs")

_WARM_UP = 3  # eager calls before recording; torch's notes use as many


class StaticUpdates(Generic[Inputs]):
    """Calls an update k times on static copies of its inputs.

    Args:
        update: a dataclass of tensors -> scalars by name. What it branches on in Python must be part of `key`.
        generators: random generators that it draws from, on the inputs' device.

    Attributes:
        recorded: how many graphs have been recorded so far.
    """

    def __init__(self, update: Callable[[Inputs], dict[str, Tensor]], generators: Iterable[torch.Generator]) -> None:
        self._update, self._generators = update, list(generators)
        self._static: dict[int, list[Inputs]] = {}
        self._graphs: dict[tuple[int, Hashable], tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}
        self._stream: torch.cuda.Stream | None = None
        self._valid: Hashable = None
        self._warm = self.recorded = 0

    def __call__(self, batches: Sequence[Inputs], valid: Hashable = None, key: Hashable = None) -> dict[str, Tensor]:
        """Update once with each batch; sums of the scalars.

        Args:
            batches: k at least 1, of one shape and device.
            valid: what every recorded graph relies on, such as `addresses`; another value throws all away.
            key: what the update branches on; each value has a graph of its own.
        """
        if valid != self._valid:
            self._valid, self._warm = valid, 0
            self._graphs.clear()
        static = self._fill(batches)
        device = _tensors(static[0])[0].device
        if device.type != "cuda":
            return self._run(static)
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        if self._warm < _WARM_UP:
            self._warm += 1
            self._stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(self._stream):
                sums = self._run(static)
            torch.cuda.current_stream(device).wait_stream(self._stream)
            return _copied(sums)  # their memory belongs to the other stream
        if (len(static), key) not in self._graphs:
            self._graphs[len(static), key] = self._record(static)
        graph, sums = self._graphs[len(static), key]
        graph.replay()
        return _copied(sums)  # the next launch overwrites them

    def _fill(self, batches: Sequence[Inputs]) -> list[Inputs]:
        static = self._static.setdefault(len(batches), [])
        if not static:
            # clones keep the memory format
            static += [type(batch)(*(x.clone() for x in _tensors(batch))) for batch in batches]
            return static
        for ours, given in zip(static, batches, strict=True):
            for to, x in zip(_tensors(ours), _tensors(given), strict=True):
                to.copy_(x, non_blocking=True)
        return static

    def _run(self, static: Sequence[Inputs]) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        for inputs in static:
            for name, value in self._update(inputs).items():
                sums[name] = sums[name] + value if name in sums else value
        return sums

    def _record(self, static: Sequence[Inputs]) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]:
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        # other threads, such as one that fetches the next batch, may call CUDA meanwhile; every graph has a pool of its own,
        # since graphs of different k are launched in any order
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            sums = self._run(static)
        self.recorded += 1
        return graph, sums


def addresses(module: nn.Module, optimizers: Iterable[Optimizer]) -> Hashable:
    """What a recorded update of `module` by `optimizers` relies on: where their tensors lie and which of them learn."""
    tensors = [(p.data_ptr(), p.requires_grad) for p in (*module.parameters(), *module.buffers())]
    states = [
        value.data_ptr()
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    return (*tensors, *states)


def prepare_optimizers(optimizers: Iterable[Optimizer], device: torch.device) -> None:
    """Have optimisers keep step and learning rate on a GPU, where a graph reads them; elsewhere nothing changes.

    Raises:
        UserError: if torch cannot record an optimiser.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if "capturable" not in group:
                raise UserError(
                    f"{type(optimizer).__name__} cannot be recorded in a CUDA graph: torch gives it no argument "
                    "`capturable`; take Adam, AdamW, NAdam, RAdam, RMSprop or Adadelta, or updates that are not recorded"
                )
            if device.type == "cuda":
                group["capturable"] = True
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
        if device.type == "cuda":
            for state in optimizer.state.values():  # of a checkpoint that was written without graphs
                if isinstance(state.get("step"), Tensor):
                    state["step"] = state["step"].to(device)


def plain_optimizer_states(states: Iterable[dict[str, Any]]) -> None:
    """Turn states of prepared optimisers into such as any device takes up: learning rates as numbers, not capturable."""
    for state in states:
        for group in state["param_groups"]:
            group["lr"], group["capturable"] = float(group["lr"]), False


def _tensors(inputs: Any) -> list[Tensor]:
    return [getattr(inputs, field.name) for field in fields(inputs)]


def _copied(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in values.items()}
