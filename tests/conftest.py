"""What every test shares: one torch thread, the environment it found, no deadline for hypothesis, a skip for GPUs."""

import importlib.util
import os
from collections.abc import Iterator
from ctypes.util import find_library

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


def can_render() -> bool:
    """Whether dm_control's tasks can be rendered here: the package, and an OpenGL library that needs no screen."""
    drawn = any(find_library(library) for library in ("EGL", "OSMesa"))
    return drawn and importlib.util.find_spec("dm_control") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {}
    if not torch.cuda.is_available():
        reasons["gpu"] = "needs a CUDA device; torch sees none"
    if not can_render():
        reasons["rendering"] = "needs dm_control, and libegl1 with libgl1-mesa-dri, or libosmesa6"
    for item in items:
        for mark, reason in reasons.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))
