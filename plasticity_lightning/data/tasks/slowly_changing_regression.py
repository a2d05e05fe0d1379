"""Slowly changing regression: a target network of threshold units whose inputs drift by one bit per task.

Of m input bits, f change slowly: after each task one of them, chosen at random, flips; the other m - f are drawn for
each sample. The target has one hidden layer of linear threshold units and weights of +-1, and is more complex than
the learner, which therefore has to track it for ever. Source: Dohare et al. 2024 (Nature 632, 768), methods, with
m = 20, f = 15, 100 units, beta = 0.7, 10,000 samples between flips.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.data.tasks.task_stream import TaskStream, named_generator

__all__ = ["SlowlyChangingRegressionDataModule", "threshold_network"]


def threshold_network(x: Tensor, hidden: Tensor, output: Tensor, beta: float) -> Tensor:
    """Output of one layer of linear threshold units.

    Unit i is 1 if its input exceeds theta_i = beta (m + 1) - S_i, where S_i is its number of negative weights
    (the bias, on a constant input 1, is one of the m + 1 weights), and 0 otherwise.

    Args:
        x: bits, float [B, m].
        hidden: weights of +-1 [units, m + 1], the last column is the bias.
        output: weights of +-1 [units + 1], the last is the bias.
        beta: share of matching inputs that a unit needs, in (0, 1).

    Returns:
        float [B, 1].
    """
    theta = beta * hidden.shape[1] - (hidden < 0).sum(1)
    fires = (x @ hidden[:, :-1].T + hidden[:, -1] > theta).to(output.dtype)
    return (fires @ output[:-1] + output[-1])[:, None]


class SlowlyChangingRegressionDataModule(TaskStream):
    """Batches (bits float [B, m], target float [B, 1]); every sample is seen once per epoch.

    Args:
        n_bits: m, input bits.
        n_slow: f, bits that change slowly, in [1, m].
        n_units: hidden units of the target, at least 1.
        beta: of the thresholds, in (0, 1).
        samples_per_task: samples between two flips, at least 1.
        **kwargs: arguments of `TaskStream`.

    Raises:
        DataArgumentError: if an argument is out of range.
    """

    def __init__(
        self,
        n_bits: int = 20,
        n_slow: int = 15,
        n_units: int = 100,
        beta: float = 0.7,
        samples_per_task: int = 10_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("n_bits", n_bits), ("n_units", n_units), ("samples_per_task", samples_per_task)):
            if value < 1:
                raise DataArgumentError(f"{name}={value}: must be an integer of at least 1.")
        if not 1 <= n_slow <= n_bits:
            raise DataArgumentError(f"n_slow={n_slow}: must lie in 1..{n_bits} (n_bits).")
        if not 0 < beta < 1:
            raise DataArgumentError(f"beta={beta}: must lie in (0, 1).")
        self.n_bits, self.n_slow, self.beta, self.samples_per_task = n_bits, n_slow, beta, samples_per_task
        generator = named_generator("target network", self.seed)
        self.hidden = _signs((n_units, n_bits + 1), generator)
        self.output = _signs((n_units + 1,), generator)
        self._draw = lru_cache(maxsize=1)(self._samples)

    @property
    def n_rows(self) -> int:
        """Samples of a task."""
        return self.samples_per_task

    def slow_bits(self, task: int) -> Tensor:
        """The slow bits during a task, float [f]: those of task 0 after `task` random flips."""
        start = torch.randint(2, (self.n_slow,), generator=named_generator("slow bits", self.seed))
        flipped = torch.randint(self.n_slow, (task,), generator=named_generator("flips", self.seed))
        return ((start + torch.bincount(flipped, minlength=self.n_slow)) % 2).float()

    def task_batch(self, rows: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """Bits and targets of these samples."""
        x, y = self._draw(task)
        return x.index_select(0, rows), y.index_select(0, rows)

    def _samples(self, task: int) -> tuple[Tensor, Tensor]:
        """All samples of a task: bits [N, m] and targets [N, 1]."""
        shape = (self.samples_per_task, self.n_bits - self.n_slow)
        fast = torch.randint(2, shape, generator=named_generator("fast bits", self.seed, task)).float()
        x = torch.cat([self.slow_bits(task).expand(self.samples_per_task, -1), fast], 1)
        return x, threshold_network(x, self.hidden, self.output, self.beta)


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(2, shape, generator=generator).float() * 2 - 1
