"""Packed arrays come back to the bit through a checkpoint that is read with weights_only."""

import io

import numpy as np
import pytest
import torch

from plasticity_lightning.control.environments.packing import pack, unpack


@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (2, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.int32])
def test_arrays_of_any_size_survive_a_checkpoint(shape, dtype):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    file = io.BytesIO()
    torch.save(pack(array), file)
    file.seek(0)
    back = unpack(torch.load(file, weights_only=True))
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    back[...] = 1  # writable
