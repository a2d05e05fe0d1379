"""What is under way between two batches: averages not yet logged, metrics, gathered gradients, and sums of callbacks.

Lightning keeps all of it out of checkpoints: after a resume inside an epoch its averages would cover the rest of the epoch only,
a trigger or a controller would find no value until the next one is logged, and an accumulation of gradients would lack its first
batches; of callbacks it keeps rank 0's state alone (see `protocols.HasRankState`). The state belongs to one rank, whose sums are
its own; it consists of tensors, numbers and strings, which `torch.load(weights_only=True)` reads. Source: lightning 2.6,
`trainer/connectors/logger_connector/result.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from torch import Tensor
from torchmetrics import Metric

from plasticity_lightning.protocols import HasRankState

__all__ = ["load_unfinished", "unfinished_state"]

_PLAIN = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx", "dataloader_idx",
          "metric_attribute")  # fmt: skip
_CONNECTOR = ("_progress_bar_metrics", "_logged_metrics", "_callback_metrics")


def unfinished_state(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """State of this rank, to be taken between two batches."""
    connector = trainer._logger_connector
    results = trainer.fit_loop.epoch_loop._results
    # by hand, nobody knows when gradients are used up
    gathering = not pl_module.automatic_optimization or trainer.fit_loop._should_accumulate()
    return {
        "gradients": {n: _copied(p.grad) for n, p in pl_module.named_parameters() if gathering and p.grad is not None},
        "results": {key: _result_state(metric) for key, metric in results.items() if metric.meta.sync.group is None},
        "latest": {name: {k: _copied(v) for k, v in getattr(connector, name).items()} for name in _CONNECTOR},
        "first_of_loop": connector._first_loop_iter,
        "hook": connector._current_fx,
        "metrics": {
            name: {"count": metric._update_count, "states": {k: _copied(getattr(metric, k)) for k in metric._defaults}}
            for name, metric in _metrics(pl_module).items()
            if metric._update_count
        },
        "callbacks": {c.state_key: _copied(c.rank_state()) for c in _with_rank_state(trainer)},
    }


def load_unfinished(trainer: Trainer, pl_module: LightningModule, state: dict[str, Any]) -> None:
    """Take up again what `unfinished_state` returned; call it when training starts, since Lightning clears all before."""
    connector = trainer._logger_connector
    metrics = _metrics(pl_module)
    parameters = dict(pl_module.named_parameters())
    for name, gradient in state["gradients"].items():
        parameters[name].grad = gradient.to(parameters[name].device)
    for name, kept in state["metrics"].items():
        if name in metrics:
            _load_metric(metrics[name], kept["states"], kept["count"])
    results = trainer.fit_loop.epoch_loop._results
    for key, kept in state["results"].items():
        result = _result(trainer, pl_module, metrics, kept)
        if result is not None:
            results[key] = result
    for name in _CONNECTOR:
        setattr(connector, name, {k: _placed(v, pl_module) for k, v in state["latest"][name].items()})
    connector._first_loop_iter, connector._current_fx = state["first_of_loop"], state["hook"]
    for callback in _with_rank_state(trainer):
        if callback.state_key in state["callbacks"]:
            callback.load_rank_state(_placed(state["callbacks"][callback.state_key], pl_module))


def _with_rank_state(trainer: Trainer) -> list[Any]:
    callbacks: list[Callback] = trainer.callbacks
    return [callback for callback in callbacks if isinstance(callback, HasRankState)]


def _metrics(module: LightningModule) -> dict[str, Metric]:
    return {name: part for name, part in module.named_modules() if isinstance(part, Metric)}


def _result_state(result: _ResultMetric) -> dict[str, Any]:
    meta = result.meta
    state = {name: getattr(meta, name) for name in _PLAIN}
    state |= {"reduce": meta.reduce_fx.__name__, "sync": meta.sync.should, "rank_zero_only": meta.sync.rank_zero_only}
    state |= {"is_tensor": result.is_tensor, "has_reset": result.has_reset, "count": result._update_count}
    state["cache"] = _copied(result._forward_cache)
    if result.is_tensor:
        state["states"] = {name: _copied(getattr(result, name)) for name in result._defaults}
    return state


def _result(
    trainer: Trainer, pl_module: LightningModule, metrics: dict[str, Metric], state: dict[str, Any]
) -> _ResultMetric | None:
    meta = _Metadata(**{name: state[name] for name in _PLAIN}, reduce_fx=getattr(torch, state["reduce"]))
    meta.sync = _Sync(fn=trainer.strategy.reduce, _should=state["sync"], rank_zero_only=state["rank_zero_only"])
    result = _ResultMetric(meta, state["is_tensor"])
    if state["is_tensor"]:
        _load_metric(result, state["states"], state["count"])
    else:
        if meta.metric_attribute not in metrics:  # logged from outside the module: nothing to go on with
            return None
        result.value = metrics[meta.metric_attribute]
        result._update_count = state["count"]
    result._forward_cache = state["cache"]
    result.has_reset = state["has_reset"]
    return result.to(pl_module.device)


def _load_metric(metric: Metric, states: dict[str, Any], count: int) -> None:
    for name, value in states.items():
        setattr(
            metric, name, [v.to(metric.device) for v in value] if isinstance(value, list) else value.to(metric.device)
        )
    metric._update_count, metric._computed = count, None


def _copied(value: Any) -> Any:
    return _mapped(value, lambda tensor: tensor.detach().cpu().clone())


def _placed(value: Any, module: LightningModule) -> Any:
    return _mapped(value, lambda tensor: tensor.to(module.device))


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _mapped(entry, function) for key, entry in value.items()}
    return type(value)(_mapped(entry, function) for entry in value) if isinstance(value, list | tuple) else value
