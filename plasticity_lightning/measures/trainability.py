"""Can the network still learn? The direct test: fit random targets with a copy, and with a freshly initialised one.

The copy takes over weights, buffers and the settings (not the state) of the run's optimiser and makes k steps on one
fixed batch; the measure is the loss that it reaches over the loss that a fresh network reaches in the same way. It is
what plasticity means, at the price of 2 k steps. The live network, its optimiser, its hooks and every random state
stay bitwise as they are.

Sources: Lyle et al. 2022 "Understanding and preventing capacity loss" (random sine targets), Lyle et al. 2023 (probe
tasks).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity_lightning.measures.isolation import isolated_copy, undisturbed

__all__ = ["ProbeResult", "fresh_copy", "fresh_optimizer", "probe_loss", "probe_targets"]

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class ProbeResult(NamedTuple):
    """Losses on the probe batch after and before the k steps, of the copy and of the fresh network; float64 scalars."""

    loss: Tensor
    initial_loss: Tensor
    fresh_loss: Tensor
    fresh_initial_loss: Tensor

    @property
    def ratio(self) -> Tensor:
        """Loss reached over that of the fresh network: 1 = as plastic as new, above 1 = plasticity lost."""
        return self.loss / self.fresh_loss


def probe_loss(
    module: nn.Module,
    inputs: Tensor,
    optimizer: torch.optim.Optimizer | OptimizerFactory,
    task: Literal["regression", "classification"] = "regression",
    steps: int = 100,
    seed: int = 0,
    fresh: Callable[[], nn.Module] | None = None,
) -> ProbeResult:
    """Loss that a copy of `module` reaches on random targets in `steps` steps, and that of a freshly initialised one.

    Args:
        module: the network, [B, ...] -> [B, outputs]; for an actor-critic or encoder pass the part that is asked about.
        inputs: fixed probe batch [B, ...], kept the same over a run.
        optimizer: the run's own optimiser, whose class and current settings per parameter are used with fresh state,
            or a factory that takes the list of parameters.
        task: "regression": mean squared error to random linear heads on the sine of a random network; "classification":
            cross-entropy to uniform random labels, as many classes as outputs.
        steps: k, at least 1.
        seed: of the targets, of the fresh network and of dropout.
        fresh: makes a freshly initialised network; None resets a copy with `fresh_copy`.

    Returns:
        The four losses; `.ratio` is the measure. NaN where the training diverged.

    Raises:
        ValueError: if the output is not [B, outputs], an argument is out of range, or a layer cannot be re-initialised.

    Misleads: random targets are harder than real ones; a long-trained net may start from large outputs, so look at
    `initial_loss`; one batch, one seed: average over several.
    Cost: 2 * steps training steps: rarely.
    Source: Lyle et al. 2022, 2023.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    if task not in ("regression", "classification"):
        raise ValueError(f"task={task!r} must be 'regression' or 'classification'")
    with undisturbed(seed):
        batch = inputs.detach().clone()  # a clone leaves inference mode, whose tensors autograd refuses
        probe = isolated_copy(module).train()
        new = (fresh_copy(module, seed) if fresh is None else fresh().to(batch.device)).train()
    losses: list[Tensor] = []
    for network in (probe, new):
        with undisturbed(seed):  # the same dropout for both
            if isinstance(optimizer, torch.optim.Optimizer):
                stepper = fresh_optimizer(optimizer, module, network)
            else:
                stepper = optimizer([p for p in network.parameters() if p.requires_grad])
            with torch.no_grad():
                shape = isolated_copy(network)(batch).shape
            if len(shape) != 2 or shape[0] != len(batch):
                raise ValueError(
                    f"module must map a batch of {len(batch)} to [{len(batch)}, outputs]; got {tuple(shape)}"
                )
            targets = probe_targets(batch, shape[1], task, seed)
            losses += _fit(network, batch, targets, stepper, steps)
    return ProbeResult(losses[1], losses[0], losses[3], losses[2])


def probe_targets(inputs: Tensor, outputs: int, task: Literal["regression", "classification"], seed: int) -> Tensor:
    """Random targets of a probe batch, a function of (inputs, seed) alone.

    Regression [B, outputs]: y = sin(g(x)) A, standardised per output, with g a random network d -> 64 -> ReLU -> 64
    of the standardised inputs and A a random linear head. Classification [B]: labels drawn uniformly from 0..outputs-1.
    """
    generator = torch.Generator().manual_seed(seed)
    if task == "classification":
        return torch.randint(0, outputs, (len(inputs),), generator=generator).to(inputs.device)
    x = inputs.detach().flatten(1).cpu().double()
    x = (x - x.mean()) / x.std().clamp(min=1e-12)
    width = 64
    first, second, head = (
        torch.randn(rows, columns, generator=generator, dtype=torch.float64) / rows**0.5
        for rows, columns in ((x.shape[1], width), (width, width), (width, outputs))
    )
    # the factor makes the sine wrap, so that the target is not nearly linear in the inputs
    y = torch.sin(5.0 * (x @ first).relu() @ second) @ head
    y = (y - y.mean(0)) / y.std(0, correction=0).clamp(min=1e-12)
    dtype = inputs.dtype if inputs.is_floating_point() else torch.get_default_dtype()
    return y.to(device=inputs.device, dtype=dtype)


def fresh_copy(module: nn.Module, seed: int) -> nn.Module:
    """Copy of `module` with every layer re-initialised by its own `reset_parameters`, under `seed`.

    Raises:
        ValueError: if a submodule holds parameters that neither it nor a parent of it can reset; it names them.
    """
    with undisturbed(seed):
        new = isolated_copy(module)
        layers = dict(new.named_modules())
        # torch's MultiheadAttention and Transformer spell it with an underscore
        resets = {
            name: getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
            for name, layer in layers.items()
        }
        stuck = [
            f"{name or 'the module itself'} ({type(layer).__name__})"
            for name, layer in layers.items()
            if any(p is not None for p in layer._parameters.values())
            and not any(reset for owner, reset in resets.items() if _within(name, owner))
        ]
        if stuck:
            raise ValueError(f"cannot re-initialise {stuck}: give them `reset_parameters`, or pass `fresh`")
        with torch.no_grad():
            # children first: where a parent initialises its children (attention its projections), the parent decides
            for reset in reversed(list(resets.values())):
                if reset is not None:
                    reset()
        return new


def fresh_optimizer(optimizer: torch.optim.Optimizer, source: nn.Module, network: nn.Module) -> torch.optim.Optimizer:
    """Optimiser of the same class and settings per parameter as `optimizer`, for `network`, with no state.

    Args:
        optimizer: holds parameters of `source`; parameters of other modules are ignored. Its class must accept
            parameter groups as its only argument, as those of torch do.
        source: the live module.
        network: a module with the same parameter names.

    Raises:
        ValueError: if `optimizer` holds no parameter of `source`.
    """
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, torch.optim.Optimizer):  # the wrapper that `LightningModule.optimizers()` returns
        optimizer = inner
    names = {id(p): _plain(n) for n, p in source.named_parameters()}
    own = {_plain(n): p for n, p in network.named_parameters()}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        parameters = [own[names[id(p)]] for p in group["params"] if id(p) in names]
        if parameters:
            # deep: a learning rate held in a tensor must not be shared with the live optimiser
            settings = {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
            settings.pop("param_names", None)
            groups.append({"params": parameters, **settings})
    if not groups:
        raise ValueError(f"optimizer={type(optimizer).__name__} holds no parameter of {type(source).__name__}")
    cls: Any = type(optimizer)
    return cls(groups)


def _fit(
    network: nn.Module, inputs: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer, steps: int
) -> tuple[Tensor, Tensor]:
    initial = inputs.new_zeros((), dtype=torch.float64)
    for step in range(steps):
        loss = _loss(network(inputs), targets)
        if step == 0:
            initial = loss.detach().double()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return initial, _loss(network(inputs), targets).double()


def _within(name: str, owner: str) -> bool:
    return owner in ("", name) or name.startswith(owner + ".")


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")  # the wrapper of torch.compile


def _loss(output: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        return functional.mse_loss(output, targets)
    return functional.cross_entropy(output, targets)
