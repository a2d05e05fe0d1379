"""What every test shares: one torch thread, no deadline for hypothesis, and a skip where a GPU is needed."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("project", deadline=None)
settings.load_profile("project")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device; torch sees none")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
