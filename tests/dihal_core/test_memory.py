import pytest
import torch

from dihal_core.errors import ArtifactError
from dihal_core.memory import first_line, is_out_of_memory


def test_a_real_failure_of_the_cpu_allocator_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)
    assert "\n" not in first_line(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_what_devices_and_python_raise_is_recognised(error):
    assert is_out_of_memory(error)
    assert first_line(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("size mismatch"),
        ValueError("out of memory"),
        ArtifactError("not enough memory"),
        KeyboardInterrupt(),
    ],
)
def test_other_failures_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)
