"""The torch route gives the numbers of the NumPy route."""

import numpy as np
import pytest
import torch

from dihal_core.config import ProxySettings
from dihal_core.errors import ConfigError, NumericsError, ResourceError
from dihal_core.geometry import torch_route
from dihal_core.geometry.pool import GramPool
from dihal_core.geometry.proxies import measure, measure_sample
from dihal_core.geometry.torch_route import TorchPool


def rows_of(kind, n, d, rng):
    x_ND = rng.standard_normal((n, d)) * np.exp(0.7 * rng.standard_normal(d))
    if kind == "offset":
        x_ND += 1e3 * rng.standard_normal(d)
    elif kind == "constant column":
        x_ND[:, 0] = 2.5
    elif kind == "float32":
        x_ND = x_ND.astype(np.float32)
    elif kind == "duplicates":
        x_ND[n // 2 :] = x_ND[: n - n // 2]
    elif kind == "low rank":
        x_ND = 1e3 * rng.standard_normal((n, 7)) @ rng.standard_normal((7, d))
    elif kind == "outlier dimension":
        x_ND[:, 0] *= 1e3
    elif kind == "tight clusters":
        x_ND = (10 * rng.standard_normal((5, d)))[rng.integers(0, 5, n)] + 1e-3 * x_ND
    return x_ND


def worst(found, expected):
    left, right = found.row(), expected.row()
    return max(abs(left[name] / right[name] - 1.0) for name in left if right[name])


def compare(backend, kind, n, d, bound, all_pairs, **choices):
    rng = np.random.default_rng(n + d)
    x_ND, pairs_M2 = rows_of(kind, n, d, rng), all_pairs(n, rng)
    expected = measure(x_ND, pairs_M2, ProxySettings(**choices))
    found = measure(x_ND, pairs_M2, ProxySettings(backend=backend, **choices))
    assert found.dropped_pairs == expected.dropped_pairs
    assert worst(found, expected) < bound


SHAPES = [(60, 100), (100, 100), (300, 40)]
WELL = ["plain", "offset", "constant column", "float32"]
DEGENERATE = ["duplicates", "low rank", "outlier dimension", "tight clusters"]


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("kind", WELL)
def test_torch_on_the_cpu_equals_numpy(kind, n, d, all_pairs):
    compare("torch-cpu", kind, n, d, 1e-9, all_pairs)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_rows_are_within_the_stated_bound(kind, n, d, all_pairs):
    compare("torch-cpu", kind, n, d, 1e-6, all_pairs)


@pytest.mark.parametrize(
    "choices",
    [
        {"curvature_form": "k_over_trace", "include_self": False},
        {"curvature_form": "inverse_trace", "metric": "cosine"},
        {"scaling": "unit_trace", "eps": 1e-3},
        {"scaling": "token_rms", "ridge": "relative"},
    ],
)
def test_every_choice_is_measured_alike(choices, all_pairs):
    for n, d in ((60, 100), (150, 40)):
        compare("torch-cpu", "plain", n, d, 1e-9, all_pairs, **choices)


@pytest.mark.parametrize("share_gram", [True, False])
@pytest.mark.parametrize("d", [20, 300])
def test_a_batch_of_subsamples_equals_the_subsamples_one_by_one(share_gram, d, all_pairs, monkeypatch):
    monkeypatch.setattr(torch_route, "BATCH_BYTES", 2e5)  # several batches
    rng = np.random.default_rng(d)
    x_ND = rows_of("plain", 250, d, rng).astype(np.float32)
    requests = [(rng.permutation(250)[:n], all_pairs(n, rng)) for n in (90, 90, 40, 90)]
    settings = ProxySettings(backend="torch-cpu")
    found = TorchPool(x_ND, settings, share_gram=share_gram).measure_all(requests)
    pool = GramPool(x_ND, settings)
    for one, (rows_n, pairs_M2) in zip(found, requests, strict=True):
        assert worst(one, measure_sample(pool.sample(pairs_M2, rows_n), settings)) < 1e-9


def test_what_numpy_refuses_is_refused(all_pairs):
    settings = ProxySettings(backend="torch-cpu")
    x_ND = np.random.default_rng(0).standard_normal((30, 5))
    with pytest.raises(ConfigError, match="at least k [+] 2"):
        measure(x_ND[:11], np.array([[0, 1]]), settings)
    with pytest.raises(ConfigError, match="joins row 4 with itself"):
        measure(x_ND, np.array([[4, 4]]), settings)
    with pytest.raises(NumericsError, match="layer 2: all 30 rows are equal"):
        measure(np.ones((30, 5)), np.array([[0, 1]]), settings, "layer 2")
    with pytest.raises(NumericsError, match="layer 2: the total variance is"):
        measure(1e170 * x_ND, np.array([[0, 1]]), settings, "layer 2")


def test_the_stage_gives_the_same_table_with_torch(script, tmp_path):
    from dihal_core.geometry.table import read_table

    record = script.write_activations(tmp_path)
    numpy_table, torch_table = (
        read_table(script.build(tmp_path / backend, record, 3, script.settings(backend=backend)))
        for backend in ("numpy", "torch-cpu")
    )
    for group in ("large", "small"):
        for name, values in numpy_table[group].items():
            assert torch_table[group][name] == pytest.approx(values, rel=1e-9), name


def test_the_replicates_of_the_stage_are_the_same_with_torch(script, tmp_path):
    record = script.write_activations(tmp_path)
    numpy_B3, torch_B3 = (
        np.load(script.build(tmp_path / backend, record, 2, script.settings(backend=backend)).path / "bootstrap.npy")
        for backend in ("numpy", "torch-cpu")
    )
    assert torch_B3 == pytest.approx(numpy_B3, rel=1e-9)


def test_a_pool_of_a_torch_backend_holds_the_same_matrices_and_neighbours():
    x_ND = rows_of("plain", 200, 30, np.random.default_rng(0))
    for metric in ("euclidean", "cosine"):
        left = GramPool(x_ND, ProxySettings(metric=metric), 120)
        right = GramPool(x_ND, ProxySettings(metric=metric, backend="torch-cpu"), 120)
        assert right.gram_NN == pytest.approx(left.gram_NN, rel=1e-9, abs=1e-9)
        assert np.array_equal(right.algebra.nearest(right.search_NN, 20), left.algebra.nearest(left.search_NN, 20))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_a_sentence():
    with pytest.raises(ResourceError, match="torch sees no CUDA device; set geometry.backend=numpy"):
        measure(
            np.random.default_rng(0).standard_normal((30, 5)), np.array([[0, 1]]), ProxySettings(backend="torch-cuda")
        )


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "d"), [*SHAPES, (1200, 2000)])
@pytest.mark.parametrize("kind", [*WELL, *DEGENERATE])
def test_torch_on_the_gpu_equals_numpy(kind, n, d, all_pairs):
    compare("torch-cuda", kind, n, d, 1e-9 if kind in WELL else 1e-6, all_pairs)
