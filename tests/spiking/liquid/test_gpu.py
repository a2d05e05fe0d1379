"""The GPU engine of the liquid: `gpu_cases.py` in numba's simulator, on a GPU, and what the compiler makes of its kernel."""

import pytest

from tests.spiking.gpu_kernels import fused_operations, run_cases

CASES = "tests/spiking/liquid/gpu_cases.py"


def test_simulated_kernel_equals_the_cpu_engine() -> None:
    assert run_cases(CASES, NUMBA_ENABLE_CUDASIM="1") >= 8


@pytest.mark.gpu
def test_gpu_engine_equals_the_cpu_engine_at_full_size() -> None:
    run_cases(CASES)


@pytest.mark.slow
def test_the_compiler_fuses_no_product_with_a_sum() -> None:
    from numba import typeof, types

    from plasticity_lightning.spiking.liquid import _cpu_kernel as compiled
    from plasticity_lightning.spiking.liquid import _gpu_kernel as kernel

    def array(kind: object, axes: int) -> object:
        return types.Array(kind, axes, "C")

    f, i, i32, u8 = types.float64, types.int64, types.int32, types.uint8
    tuples = [
        kernel.Size(1, 1, 1, 1),
        compiled.Neuron(**dict.fromkeys(compiled.Neuron._fields, 1.0) | {"refractory": 2}),
        compiled.Rule(**dict.fromkeys(compiled.Rule._fields, 1.0)),
        kernel.Feedback(1.0, 1.0, 1.0),
        compiled.How(True, True, True, True, 1.0),
    ]
    signature = [
        *map(typeof, tuples),
        f,
        array(f, 1),
        array(i, 1),
        array(i32, 1),
        array(i, 1),
        array(f, 1),
        array(f, 1),
    ]
    signature += [array(u8, 1), array(u8, 1), array(i, 1), array(i32, 1), *[array(f, 1)] * 4]
    signature += [array(f, 3), array(f, 3), array(f, 2), array(i, 3), array(i, 3), array(i, 3), array(i32, 2)]
    signature += [
        array(i32, 2),
        array(f, 2),
        array(i32, 2),
        array(i32, 2),
        array(i32, 2),
        array(i32, 2),
        array(f, 2),
        array(u8, 3),
    ]
    assert fused_operations("plasticity_lightning.spiking.liquid._gpu_kernel", "simulate_samples", signature) == (
        0,
        True,
    )
