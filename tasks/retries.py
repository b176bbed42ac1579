"""Which failures are worth another try: those whose cause is outside us."""

from typing import Any

from dihal_core.errors import AssetError, ConfigError, GateError, NetworkError, NumericsError

BACKOFF_SECONDS = [2, 10, 30]
"""Waits before the second, third and fourth attempt."""

NEVER = (ConfigError, GateError, NumericsError, AssetError)
OUTSIDE = (NetworkError, ConnectionError, TimeoutError)
STORAGE_ERRNOS = frozenset({5, 16, 116, 121})  # EIO, EBUSY, ESTALE, EREMOTEIO
LOST_GPU = ("AcceleratorError", "CUDA error", "NCCL")


def caused_outside(error: BaseException) -> bool:
    """Return True for a failing network, storage or device; False for wrong settings and for bugs."""
    if isinstance(error, NEVER):
        return False
    if isinstance(error, OUTSIDE):
        return True
    if isinstance(error, OSError) and error.errno in STORAGE_ERRNOS:
        return True
    return any(sign in f"{type(error).__name__}: {error}" for sign in LOST_GPU)


def retry_if_outside(_task: Any, _task_run: Any, state: Any) -> bool:
    """Prefect's `retry_condition_fn`: look at the exception behind the failed state."""
    try:
        state.result(raise_on_failure=True)
    except BaseException as error:
        return caused_outside(error)
    return False


RETRY: dict[str, Any] = {
    "retries": len(BACKOFF_SECONDS),
    "retry_delay_seconds": BACKOFF_SECONDS,
    "retry_jitter_factor": 0.3,
    "retry_condition_fn": retry_if_outside,
}
"""Keyword arguments of every stage task."""
