"""What every test shares: one torch thread, the environment it found, no deadline for hypothesis, a skip for GPUs."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from tests.recipes.covered import pytest_runtest_logreport, pytest_sessionfinish, pytest_terminal_summary

__all__ = ["pytest_runtest_logreport", "pytest_sessionfinish", "pytest_terminal_summary"]

torch.set_num_threads(1)
settings.register_profile("project", deadline=None)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """Lightning leaves ranks, ports and a process group of one behind, which a later test of the same worker would use."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for key in os.environ.keys() - before.keys():
        del os.environ[key]
    os.environ.update(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device; torch sees none")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
