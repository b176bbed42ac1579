"""Tells running out of memory apart from other failures. Imports no torch."""

from dihal_core.errors import DihalError

SIGNS = ("defaultcpuallocator", "can't allocate memory", "not enough memory", "out of memory", "status_alloc_failed")
"""What PyTorch, its CPU allocator, cuBLAS and cuDNN write, in lower case."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for `torch.cuda.OutOfMemoryError`, the CPU allocator's `RuntimeError` and `MemoryError`."""
    if isinstance(error, DihalError) or not isinstance(error, RuntimeError | MemoryError):
        return False
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(sign in text for sign in SIGNS)
    )


def first_line(error: BaseException, most: int = 200) -> str:
    """Return what an error says before its details."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
