"""The GPU engine: `gpu_cases.py` in numba's simulator, on a GPU, and what the compiler makes of its kernel."""

import pytest

from tests.spiking.gpu_kernels import fused_operations, run_cases

CASES = "tests/spiking/reservoir/gpu_cases.py"


def test_simulated_kernel_equals_the_cpu_engine() -> None:
    assert run_cases(CASES, NUMBA_ENABLE_CUDASIM="1") >= 9


@pytest.mark.gpu
def test_gpu_engine_equals_the_cpu_engine_at_full_size() -> None:
    run_cases(CASES)


@pytest.mark.slow
def test_the_compiler_fuses_no_product_with_a_sum() -> None:
    from numba import types

    f, i = types.float64, types.int64

    def array(kind: object, axes: int) -> object:
        return types.Array(kind, axes, "C")

    f2, f3 = array(f, 2), array(f, 3)
    signature = [
        array(i, 1),
        array(i, 1),
        array(types.uint64, 1),
        array(i, 1),
        array(i, 1),
        f2,
        types.boolean,
        f3,
        f,
        i,
    ]
    signature += [array(i, 2), array(types.int32, 1), array(f, 1), f3, array(f, 1), array(f, 1)]
    signature += [types.UniTuple(f, 6), types.UniTuple(f, 3), i, *[f2] * 7, f3, f3, f3, f2, f3, array(types.boolean, 2)]
    signature += [i, f, types.boolean, f3, array(types.int8, 2), array(types.int32, 2), array(types.float32, 3)]
    signature += [array(types.int32, 2), array(types.int32, 2), f3, array(types.uint8, 3)]
    assert fused_operations("plasticity_lightning.spiking.reservoir._gpu_kernel", "simulate_lanes", signature) == (
        0,
        True,
    )
