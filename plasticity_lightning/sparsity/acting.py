"""Which weights act, how often, and how many of those that act are zero? Seen from the calls of torch's functions.

A layer may compute the weight that it uses from the one that is masked: by a parametrisation (weight norm) or in its
forward pass (standardised convolutions), and zeros need not survive that. And a weight may be used without a layer: as
a raw matrix, by `einsum`, as one of many experts. `ActingWeights` watches the functions that multiply by weights, with
whatever stands in for a parameter there, and counts multiply-adds, so that no layout of sequences has to be known.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from plasticity_lightning.sparsity.selection import plain_name

__all__ = ["ActingWeights"]

Arguments = dict[str, Any]
Rule = Callable[[tuple[Any, ...], dict[str, Any], Any], Iterator[tuple[Any, int]]]


class ActingWeights(TorchFunctionMode):
    """Within the block, counts how often each parameter of `module` with two dimensions or more is multiplied with data.

    Args:
        module: whose parameters are looked for.

    Attributes:
        computed: name -> zeros of the tensor that acted in the parameter's place, a share in [0, 1] as a tensor on its
            device; only for parameters that did not act themselves. Of several calls the last counts.

    Code compiled by `torch.compile` is not seen, nor are custom autograd functions and kernels of other libraries.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        matrices = {plain_name(n): p for n, p in module.named_parameters() if p.ndim > 1}
        self.sizes = {name: p.numel() for name, p in matrices.items()}
        self.computed: dict[str, Tensor] = {}
        self._macs: dict[bool, dict[str, int]] = {True: {}, False: {}}  # with and without autograd
        self._names = {id(p): name for name, p in matrices.items()}
        self._storages = _unique({name: p.untyped_storage().data_ptr() for name, p in matrices.items()})
        # tensors that no data has touched, held so that no other takes their id: of the module, or computed from those
        self._constant: dict[int, tuple[Tensor, str | None]] = {
            id(t): (t, self._names.get(id(t))) for t in (*module.parameters(), *module.buffers())
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function; note the weights that it multiplies by, or what it makes of them."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name not in _RULES:
            self._follow(result, [*_tensors(args), *_tensors(tuple(kwargs.values()))])
            return result
        for weight, macs in _RULES[name](args, kwargs, result):
            self._note(weight, macs)
        return result

    def uses(self) -> dict[str, float]:
        """How often each weight of a parameter was multiplied so far, on average over its entries.

        Passes under autograd count; for a parameter that has none (a local rule's) the others do.
        """
        macs = {**self._macs[False], **self._macs[True]}
        return {name: _quotient(n, self.sizes[name]) for name, n in macs.items()}

    def positions(self, batch_size: int) -> dict[str, float]:
        """Uses for one sample of a batch of this size. Shares of FLOPs are the same for any size."""
        return {name: _quotient(n, batch_size) for name, n in self.uses().items()}

    def _note(self, weight: Any, macs: int) -> None:
        if not isinstance(weight, Tensor):
            return
        name = self._names.get(id(weight)) or self._storages.get(weight.untyped_storage().data_ptr())
        if name is None:
            name = self._constant[id(weight)][1] if id(weight) in self._constant else None
            if name is None:
                return
            self.computed[name] = (weight.detach() == 0).float().mean()
        counts = self._macs[torch.is_grad_enabled()]
        counts[name] = counts.get(name, 0) + macs

    def _follow(self, result: Any, inputs: list[Tensor]) -> None:
        """What is made of constants alone is constant, and stands for the largest parameter in it."""
        if not torch.is_grad_enabled():  # an optimiser's step
            return
        if not inputs or any(id(t) not in self._constant and t.numel() > 1 for t in inputs):
            return
        names = [self._constant[id(t)][1] for t in inputs if id(t) in self._constant]
        named = [name for name in names if name is not None]
        if named:
            largest = max(named, key=self.sizes.__getitem__)
            for tensor in (t for t in _tensors((result,)) if t.requires_grad):
                self._constant.setdefault(id(tensor), (tensor, largest))


def _linear(args: tuple[Any, ...], kwargs: Arguments, out: Any) -> Iterator[tuple[Any, int]]:
    weight = _argument(args, kwargs, 1, "weight")
    yield weight, out.numel() * weight.shape[-1]


def _convolution(args: tuple[Any, ...], kwargs: Arguments, out: Any) -> Iterator[tuple[Any, int]]:
    weight = _argument(args, kwargs, 1, "weight")
    yield weight, out.numel() * weight[0].numel()


def _transposed_convolution(args: tuple[Any, ...], kwargs: Arguments, out: Any) -> Iterator[tuple[Any, int]]:
    weight = _argument(args, kwargs, 1, "weight")
    yield weight, _argument(args, kwargs, 0, "input").numel() * weight[0].numel()


def _bilinear(args: tuple[Any, ...], kwargs: Arguments, out: Any) -> Iterator[tuple[Any, int]]:
    weight = _argument(args, kwargs, 2, "weight")
    yield weight, out.numel() * weight[0].numel()


def _product(first: int, *names: tuple[str, ...], reverse: bool = False) -> Rule:
    """Of two matrices (or batches of them) at positions `first` and `first` + 1."""

    def rule(args: tuple[Any, ...], kwargs: Arguments, out: Any) -> Iterator[tuple[Any, int]]:
        left, right = (_argument(args, kwargs, first + i, *names[i]) for i in (0, 1))
        if reverse:
            left, right = right, left
        if left.ndim == 1:
            macs = right.numel()
        elif left.ndim == right.ndim == 3 and out.ndim == 2:  # summed over the batch
            macs = left.numel() * right.shape[-1]
        else:
            macs = out.numel() * left.shape[-1]
        yield left, macs
        yield right, macs

    return rule


def _einsum(args: tuple[Any, ...], kwargs: Arguments, out: Any) -> Iterator[tuple[Any, int]]:
    if not args or not isinstance(args[0], str):
        return
    operands = args[1] if len(args) == 2 and isinstance(args[1], list | tuple) else args[1:]
    sizes: dict[str, int] = {}
    for term, operand in zip(args[0].replace(" ", "").split("->")[0].split(","), operands, strict=True):
        before, dots, after = term.partition("...")
        middle = operand.ndim - len(before) - len(after) if dots else 0
        letters = [*before, *(f"...{middle - i}" for i in range(middle)), *after]  # what the dots stand for ends alike
        for letter, size in zip(letters, operand.shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    for operand in operands:
        yield operand, math.prod(sizes.values())


def _recurrent(args: tuple[Any, ...], kwargs: Arguments, out: Any) -> Iterator[tuple[Any, int]]:
    """Input [.., features] (or packed) and, somewhere, the list of weights: each is used once a step and sample."""
    weights = next((a for a in args if isinstance(a, list)), [])
    for weight in weights:
        if weight.ndim > 1:
            yield weight, args[0].numel() // args[0].shape[-1] * weight.numel()


def _recurrent_cell(args: tuple[Any, ...], kwargs: Arguments, out: Any) -> Iterator[tuple[Any, int]]:
    samples = args[0].numel() // args[0].shape[-1]
    for weight in (_argument(args, kwargs, 2, "w_ih"), _argument(args, kwargs, 3, "w_hh")):
        yield weight, samples * weight.numel()


_ATTENTION = inspect.signature(nn.functional.multi_head_attention_forward)


def _attention(args: tuple[Any, ...], kwargs: Arguments, out: Any) -> Iterator[tuple[Any, int]]:
    """[L, B, E]: tokens of query, key and value each pass their part of the input projection."""
    given = _ATTENTION.bind(*args, **kwargs).arguments
    tokens = [given[name].numel() // given[name].shape[-1] for name in ("query", "key", "value")]
    packed, output = given.get("in_proj_weight"), given.get("out_proj_weight")
    if given.get("use_separate_proj_weight"):
        for name, n in zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), tokens, strict=True):
            yield given[name], n * given[name].numel()
    elif packed is not None:
        yield packed, sum(tokens) * packed.numel() // 3
    if output is not None:
        yield output, tokens[0] * output.numel()


# without mv, by which spectral norm estimates a norm: that is no use of the weight on data
_RULES: Mapping[str, Rule] = {
    "linear": _linear,
    "bilinear": _bilinear,
    **{f"conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _transposed_convolution for n in (1, 2, 3)},
    **dict.fromkeys(("matmul", "__matmul__", "mm", "bmm"), _product(0, ("input", "self"), ("other", "mat2"))),
    "__rmatmul__": _product(0, ("self",), ("other",), reverse=True),
    **dict.fromkeys(("addmm", "addmm_"), _product(1, ("mat1",), ("mat2",))),
    **dict.fromkeys(("baddbmm", "addbmm"), _product(1, ("batch1",), ("batch2",))),
    "einsum": _einsum,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _recurrent_cell),
    "multi_head_attention_forward": _attention,
}


def _argument(args: tuple[Any, ...], kwargs: Arguments, position: int, *names: str) -> Any:
    if position < len(args):
        return args[position]
    return next(kwargs[name] for name in names if name in kwargs)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _unique(pointers: Mapping[str, int]) -> dict[int, str]:
    """Pointer -> name, without those that several names share (a cuDNN layer keeps its weights in one buffer)."""
    once = list(pointers.values())
    return {pointer: name for name, pointer in pointers.items() if pointer and once.count(pointer) == 1}


def _quotient(n: float, divisor: int) -> float:
    """A whole number where it is one."""
    return n // divisor if isinstance(n, int) and n % divisor == 0 else n / divisor
