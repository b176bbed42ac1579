import pytest

from dihal_core.errors import AssetError, ConfigError, GateError, NetworkError, NumericsError, ResourceError
from tasks.retries import BACKOFF_SECONDS, RETRY, caused_outside


@pytest.mark.parametrize(
    "error",
    [
        NetworkError("mirror down"),
        ConnectionResetError("peer"),
        TimeoutError("slow"),
        OSError(5, "Input/output error"),
        RuntimeError("CUDA error: device lost"),
    ],
)
def test_failures_from_outside_are_retried(error):
    assert caused_outside(error)


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("bad setting"),
        GateError("leak"),
        NumericsError("NaN at layer 3"),
        AssetError("corrupt"),
        ResourceError("disk full"),
        OSError(28, "No space left on device"),
        ValueError("bug"),
        KeyError("bug"),
    ],
)
def test_bad_settings_and_bugs_are_not_retried(error):
    assert not caused_outside(error)


def test_waits_grow():
    assert list(RETRY["retry_delay_seconds"]) == sorted(BACKOFF_SECONDS)
    assert RETRY["retries"] == len(BACKOFF_SECONDS)
