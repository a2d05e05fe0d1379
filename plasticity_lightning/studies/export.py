"""A trained network as a file that runs by itself, checked against the network on real inputs, with what that gains.

The file is TorchScript, in all formats: `torch.jit.load(file)` runs it without the classes that made it. (torch calls it
deprecated; `torch.export`, its successor, records no CSR product.) `condensed`
files name an operator of `sparsity.condensed`, which has to be imported before.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from plasticity_lightning._version import __version__
from plasticity_lightning.errors import UserError
from plasticity_lightning.runtime.atomic_file import atomic_file
from plasticity_lightning.sparsity.compress import CompressedLayer, Format, compress
from plasticity_lightning.studies.latency import seconds_in_turn

__all__ = ["METADATA", "Exported", "Latency", "export_network", "latencies", "load_exported", "samples_of"]

METADATA = "plasticity.json"  # entry of the file: format, layers, versions
Inputs = tuple[Tensor, ...]


class Exported(NamedTuple):
    """A written file.

    Attributes:
        layers: what became of each.
        bytes_before: of the file that format "dense" would be.
        bytes_after: of the file.
        difference: largest absolute difference of an output from the network's, over all batches.
        module: the file, loaded.
    """

    layers: list[CompressedLayer]
    bytes_before: int
    bytes_after: int
    difference: float
    module: torch.jit.ScriptModule


class Latency(NamedTuple):
    """Seconds of one call."""

    threads: int
    batch: int
    before: float
    after: float


def export_network(
    network: nn.Module,
    batches: Sequence[Inputs],
    format: Format,
    output: Path,
    min_sparsity: float = 0.5,
    project: bool = False,
    tolerance: float = 1e-5,
) -> Exported:
    """Write the network in a format, after its outputs have been compared.

    Args:
        network: on the CPU; a function of tensors that returns a tensor.
        batches: real inputs, one tuple a call.
        format: see `sparsity.compress`.
        output: the file; its folder is made. Nothing is written if anything is refused.
        min_sparsity: see `compress`.
        project: see `compress`; outputs are then compared with those of the projected network.
        tolerance: of each output, absolute and relative: |a - b| <= tolerance (1 + |b|).

    Raises:
        ValueError: as `compress`.
        UserError: if the network cannot be recorded, its outputs differ, or the file cannot be written.
    """
    network = network.eval()
    smaller, layers = compress(network, format, min_sparsity, project)
    told = {"format": format, "plasticity_lightning": __version__, "torch": torch.__version__}
    content = _recorded(smaller, batches[0], {**told, "layers": [row._asdict() for row in layers]})
    module = _load(io.BytesIO(content))
    # what a projection changes is known; what the file adds to it is not
    difference = _difference(smaller if project else network, module, batches, tolerance)
    dense, _ = compress(network, "dense")
    before = len(_recorded(dense, batches[0], told))
    with atomic_file(output) as file:
        file.write(content)
    return Exported(layers, before, len(content), difference, module)


def load_exported(path: Path) -> torch.jit.ScriptModule:
    """The module of a file of any format, in evaluation mode."""
    import plasticity_lightning.sparsity.condensed  # noqa: F401 - brings the operator

    return _load(io.BytesIO(path.read_bytes()))


def samples_of(batches: Sequence[Inputs], n: int) -> Inputs:
    """So many samples of real inputs, repeated if there are fewer."""
    joined = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    return tuple(part[torch.arange(n) % len(part)] for part in joined)


def latencies(
    network: nn.Module,
    module: nn.Module,
    batches: Sequence[Inputs],
    batch_sizes: Iterable[int],
    threads: Iterable[int],
    seconds: float = 0.25,
) -> list[Latency]:
    """Seconds of one call of the network and of the file's module, in turn, in one process.

    Args:
        network: in evaluation mode, with all its zeros.
        module: of `Exported`.
        batches: real inputs.
        batch_sizes: samples a call.
        threads: of torch; the number that was set is set again afterwards.
        seconds: for each of the two in each row.
    """
    rows, before = [], torch.get_num_threads()
    try:
        with torch.no_grad():
            for n_threads in threads:
                torch.set_num_threads(n_threads)
                for n in batch_sizes:
                    inputs = samples_of(batches, n)
                    pair = seconds_in_turn([partial(network, *inputs), partial(module, *inputs)], seconds)
                    rows.append(Latency(n_threads, n, *pair))
    finally:
        torch.set_num_threads(before)
    return rows


def _recorded(network: nn.Module, inputs: Inputs, metadata: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    name = type(network).__name__
    with warnings.catch_warnings(record=True) as told, torch.no_grad():
        warnings.simplefilter("always")
        try:
            traced = torch.jit.trace(network, inputs, check_trace=False)
            torch.jit.save(traced, content, _extra_files={METADATA: json.dumps(metadata)})
        except (RuntimeError, TypeError, ValueError) as error:
            first = str(error).strip().partition("\n")[0]
            raise UserError(f"torch.jit.trace cannot record {name}: {first}") from error
    # what depends on the inputs' values is recorded for these inputs alone; other warnings say that trace is deprecated
    for warning in told:
        if issubclass(warning.category, torch.jit.TracerWarning):
            first = str(warning.message).strip().partition("\n")[0]
            raise UserError(f"torch.jit.trace cannot record {name}: {first}")
    return content.getvalue()


def _load(file: io.BytesIO) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        return torch.jit.load(file, map_location="cpu").eval()


def _difference(network: nn.Module, module: nn.Module, batches: Sequence[Inputs], tolerance: float) -> float:
    largest = 0.0
    with torch.no_grad():
        for inputs in batches:
            wanted, got = network(*inputs), module(*inputs)
            if wanted.shape != got.shape:
                raise UserError(
                    f"the exported module gives {tuple(got.shape)} where the network gives {tuple(wanted.shape)}; "
                    "nothing was written"
                )
            apart = (got - wanted).abs()
            if not bool((apart <= tolerance * (1 + wanted.abs())).all()):
                raise UserError(
                    f"the exported module's outputs differ from the network's by up to {float(apart.max()):.3g}, more than "
                    f"{tolerance:g}; nothing was written"
                )
            largest = max(largest, float(apart.max()))
    return largest
