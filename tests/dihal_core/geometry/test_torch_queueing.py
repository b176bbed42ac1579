"""What the fast path may not be trusted with is measured again; queueing waits for nothing."""

import numpy as np
import pytest
import torch

from dihal_core.config import ProxySettings
from dihal_core.geometry import torch_queueing
from dihal_core.geometry.proxies import measure
from dihal_core.geometry.torch_route import TorchPool


def clusters(rng):
    return (10 * rng.standard_normal((5, 40)))[rng.integers(0, 5, 90)] + 1e-3 * rng.standard_normal((90, 40))


def both(x_ND, pairs_M2):
    """Rows of results by torch and by NumPy."""
    return (measure(x_ND, pairs_M2, ProxySettings(backend=backend)).row() for backend in ("torch-cpu", "numpy"))


def test_many_neighbourhoods_that_cancel_are_measured_again(all_pairs, monkeypatch):
    monkeypatch.setattr(torch_queueing, "RECOMPUTED", 8)
    rng = np.random.default_rng(0)
    found, expected = both(clusters(rng), all_pairs(90, rng))
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_slow_lanczos_run_is_measured_again(all_pairs, monkeypatch):
    monkeypatch.setattr(torch_queueing, "STEPS", 3)
    rng = np.random.default_rng(0)
    found, expected = both(rng.standard_normal((90, 40)) * np.exp(0.7 * rng.standard_normal(40)), all_pairs(90, rng))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.gpu
def test_a_batch_on_the_gpu_is_queued_without_waiting_for_the_device(all_pairs):
    rng = np.random.default_rng(0)
    x_ND = rng.standard_normal((900, 64)).astype(np.float32)
    pool = TorchPool(x_ND, ProxySettings(backend="torch-cuda"))
    request = (rng.permutation(900)[:300], all_pairs(300, rng))
    pool.measure_all([request])
    torch.cuda.set_sync_debug_mode("error")
    try:
        queued = pool._queue(request)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert queued.rows == 300
