"""A fixed batch for a network, and what is measured on it: activities of a copy in eval mode, and whole-network measures.

The inputs are those of the first training batch, recorded where the network is called, whatever the module does before
and after. Everything runs on isolated copies under a fixed seed, so that training goes on bitwise as it would have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from plasticity_lightning.callbacks.monitoring.activations import ActivationCollector
from plasticity_lightning.callbacks.monitoring.layers import Caller, Nonlinearity, plain_name
from plasticity_lightning.measures.isolation import isolated_copy, undisturbed
from plasticity_lightning.measures.registry import Measure

__all__ = ["Probe", "ProbeLoss"]

ProbeLoss = Literal["cross_entropy", "mse"]
_TARGETS = ("target", "targets", "label", "labels", "y")


class Probe:
    """Records the probe batch and measures on it.

    Args:
        network: dotted name of the network; None takes the one module that the training step calls.
        size: samples kept, at least 1.
        loss: of the network's output for curvature and gradients; None decides by the targets: cross-entropy for
            integers, mean squared error for numbers.
        steps: of `probe_loss`.
    """

    def __init__(self, network: str | None, size: int, loss: ProbeLoss | None, steps: int) -> None:
        self.network, self.size, self.loss, self.steps = network, size, loss, steps
        self.name: str | None = None
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.targets: Tensor | None = None
        self._handles: list[RemovableHandle] = []
        self._calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._stack: list[bool] = []

    @property
    def ready(self) -> bool:
        """Whether a batch has been recorded."""
        return self.name is not None

    def check(self, root: nn.Module) -> None:
        """Raise MisconfigurationException if `network` names no module."""
        if self.network is not None and self.network not in _modules(root):
            raise MisconfigurationException(
                f"network={self.network!r} is no submodule of {type(root).__name__}; there are {list(_modules(root))[:20]}"
            )

    def record(self, root: LightningModule, all_calls: bool) -> None:
        """Watch which networks the training step calls, and with what."""
        self.remove()
        self._calls, self._stack = {}, []
        if self.network is not None:
            candidates = {self.network: _modules(root)[self.network]}
        else:
            with_parameters = {n: m for n, m in root.named_children() if any(True for _ in m.parameters())}
            candidates = {"": root, **with_parameters}

        def entered(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                # the strategy calls the module itself to run the training step: that is no forward pass
                own = module is not root or getattr(root.forward, "__func__", None) is type(root).forward
                outermost = own and not any(self._stack) and (all_calls or torch.is_grad_enabled())
                if outermost and name not in self._calls:
                    self._calls[name] = (args, kwargs)
                self._stack.append(own)

            return hook

        def left(module: nn.Module, args: Any, output: Any) -> None:
            self._stack.pop()

        for name, module in candidates.items():
            self._handles.append(module.register_forward_pre_hook(entered(name), with_kwargs=True))
            self._handles.append(module.register_forward_hook(left))

    def remove(self) -> None:
        """Stop watching; safe to call at any time."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def keep(self, batch: Any, broadcast: Callable[[Any], Any]) -> None:
        """Keep what was recorded; all processes take the batch of the first.

        Raises:
            MisconfigurationException: if several networks were called and none was named, or the inputs are no tensors.
        """
        self.remove()
        calls, self._calls = self._calls, {}
        if not calls:
            return
        if len(calls) > 1:
            raise MisconfigurationException(
                f"the training step calls several networks: {list(calls)}; choose the one to probe with network="
            )
        ((name, (args, kwargs)),) = calls.items()
        first = next((a for a in [*args, *kwargs.values()] if isinstance(a, Tensor)), None)
        if first is None or not first.ndim:
            raise MisconfigurationException(
                f"network={name!r} is called without a tensor of samples; name a submodule that takes one with network="
            )
        targets = _find_targets(batch)
        if targets is not None and (not targets.ndim or len(targets) != len(first)):
            targets = None
        kept = [self._cut(value, len(first)) for value in (args, kwargs, targets)]
        self.args, self.kwargs, self.targets = broadcast(tuple(kept))
        self.name = name

    def activities(
        self,
        root: nn.Module,
        nonlinearities: Sequence[Nonlinearity],
        callers: Sequence[Caller],
        due: Iterable[Measure],
        collector: ActivationCollector,
        functional: bool,
    ) -> None:
        """Run a copy of the network in eval mode on the batch, seen by `collector`."""
        live = self._live(root)
        with undisturbed(seed=0):
            copied = isolated_copy(live).eval()
            live = getattr(live, "_orig_mod", live)
            twin = dict(zip(map(id, live.modules()), copied.modules(), strict=True))
            for module in copied.modules():
                reset = getattr(module, "reset", None)
                if callable(reset) and hasattr(module, "step_mode"):
                    reset()  # a spiking node starts at rest
            chosen = [replace(n, module=twin[id(n.module)]) for n in nonlinearities if id(n.module) in twin]
            around = [replace(c, module=twin[id(c.module)]) for c in callers if id(c.module) in twin]
            args, kwargs = self._on_device(live)
            collector.install(chosen, around, due, functional, all_calls=True)
            try:
                with torch.no_grad():
                    copied(*args, **kwargs)
            finally:
                collector.remove()

    def measure(
        self, root: nn.Module, due: Sequence[Measure], optimizers: Sequence[torch.optim.Optimizer]
    ) -> dict[str, Tensor]:
        """Values of the measures of the whole network among `due`.

        Raises:
            MisconfigurationException: if the network takes more than one tensor, or a loss needs targets that the
                batch does not show.
        """
        live = self._live(root)
        args, kwargs = self._on_device(live)
        names = sorted(measure.name for measure in due)
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
            raise MisconfigurationException(
                f"{names} need a network of one tensor; {self.name or type(root).__name__} takes "
                f"{len(args)} positional and {len(kwargs)} keyword arguments: choose another with network="
            )
        found: dict[str, Tensor] = {}
        for measure in due:
            options = {name: self._option(name, measure, live, args[0], optimizers) for name in measure.options}
            found |= measure.values(measure.definition(live, args[0], **options))
        return found

    def _option(
        self, name: str, measure: Measure, live: nn.Module, inputs: Tensor, optimizers: Sequence[torch.optim.Optimizer]
    ) -> Any:
        classify = self.loss == "cross_entropy" or (
            self.loss is None and self.targets is not None and not self.targets.is_floating_point()
        )
        if name == "loss":
            return _cross_entropy if classify else _mse
        if name == "task":
            return "classification" if classify else "regression"
        if name == "steps":
            return self.steps
        if name == "targets":
            if self.targets is None:
                raise MisconfigurationException(
                    f"{measure.name} needs targets: the batch must be (inputs, targets) or a mapping with one of {_TARGETS}"
                )
            return self.targets.to(inputs.device)
        own = {id(p) for p in live.parameters()}
        holding = [o for o in optimizers if any(id(p) in own for g in o.param_groups for p in g["params"])]
        if not holding:
            raise MisconfigurationException(f"{measure.name}: no optimiser holds a parameter of {self.name!r}")
        return holding[0]

    def state_dict(self) -> dict[str, Any]:
        """The recorded batch."""
        return {"name": self.name, "args": list(self.args), "kwargs": self.kwargs, "targets": self.targets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        self.name, self.args, self.kwargs = state["name"], tuple(state["args"]), dict(state["kwargs"])
        self.targets = state["targets"]

    def _live(self, root: nn.Module) -> nn.Module:
        assert self.name is not None
        return root if self.name == "" else _modules(root)[self.name]

    def _on_device(self, module: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
        device = next((t.device for t in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
        return _mapped(self.args, lambda t: t.to(device)), _mapped(self.kwargs, lambda t: t.to(device))

    def _cut(self, value: Any, n_samples: int) -> Any:
        def cut(t: Tensor) -> Tensor:
            t = t.detach()
            return (t[: self.size] if t.ndim and len(t) == n_samples else t).cpu().clone()

        return _mapped(value, cut)


def _modules(root: nn.Module) -> dict[str, nn.Module]:
    return {plain_name(name): module for name, module in root.named_modules() if name}


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)(_mapped(v, function) for v in value)
    if isinstance(value, dict):
        return {k: _mapped(v, function) for k, v in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise MisconfigurationException(
        f"the probed network takes a {type(value).__name__}, which a checkpoint cannot hold; "
        "choose a submodule that takes tensors with network="
    )


def _find_targets(batch: Any) -> Tensor | None:
    if isinstance(batch, Mapping):
        found = next((batch[key] for key in _TARGETS if key in batch), None)
    else:
        found = batch[1] if isinstance(batch, list | tuple) and len(batch) > 1 else None
    return found if isinstance(found, Tensor) else None


def _cross_entropy(output: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(output, targets)


def _mse(output: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(output, targets.reshape(output.shape).to(output.dtype))
