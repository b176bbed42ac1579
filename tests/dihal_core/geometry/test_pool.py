"""Subsamples gathered from a pool equal subsamples measured on their own."""

import numpy as np
import pytest

from dihal_core.config import GeometrySettings, ProxySettings
from dihal_core.errors import NumericsError
from dihal_core.geometry.pool import GramPool, _submatrix
from dihal_core.geometry.proxies import measure, measure_sample
from dihal_core.geometry.rows import identical_rows

SETTINGS = GeometrySettings(k=5)


def worst(left, right):
    return max(abs(left[name] / right[name] - 1.0) for name in left if right[name] != 0)


def rows_of(kind, n, d, rng):
    x_ND = rng.standard_normal((n, d)) * np.exp(0.5 * rng.standard_normal(d))
    if kind == "documents":
        x_ND += 2 * rng.standard_normal((n // 4 + 1, d))[np.arange(n) // 4]
    elif kind == "outliers":
        x_ND[::60, 2] += 500.0
    elif kind == "duplicates":
        x_ND = x_ND[rng.integers(0, n // 3, n)]
    elif kind == "offset":
        x_ND += 300.0
    return x_ND.astype(np.float32)


@pytest.mark.parametrize("kind", ["plain", "documents", "outliers", "duplicates", "offset"])
@pytest.mark.parametrize(("pool", "n", "d"), [(900, 300, 40), (500, 120, 200), (700, 90, 60), (400, 400, 30)])
def test_a_gathered_subsample_equals_a_direct_measurement(kind, pool, n, d, all_pairs):
    rng = np.random.default_rng(pool + n)
    x_ND = rows_of(kind, pool, d, rng)
    shared = GramPool(x_ND, SETTINGS, n)
    for _ in range(3):
        rows_n, pairs_M2 = rng.permutation(pool)[:n], all_pairs(n, rng)
        gathered = measure_sample(shared.sample(pairs_M2, rows_n), SETTINGS).row()
        assert worst(gathered, measure(x_ND[rows_n], pairs_M2, SETTINGS).row()) < 1e-9


def test_the_large_case_uses_neighbour_lists_and_the_small_one_searches_directly():
    x_ND = rows_of("plain", 900, 40, np.random.default_rng(0))
    shared = GramPool(x_ND, SETTINGS, 300)
    assert shared.lists_NK is not None
    assert shared._lists_serve(300)
    assert not shared._lists_serve(60)


@pytest.mark.parametrize("size", [20, 300])
def test_few_and_many_entries_are_gathered_alike(size):
    gram_NN = np.random.default_rng(0).standard_normal((400, 400))
    rows_n = np.random.default_rng(1).permutation(400)[:size]
    assert np.array_equal(_submatrix(gram_NN, rows_n), gram_NN[np.ix_(rows_n, rows_n)])


def test_a_subsample_does_not_depend_on_what_was_measured_before(all_pairs):
    rng = np.random.default_rng(1)
    x_ND = rows_of("documents", 600, 30, rng)
    draws = [(np.sort(rng.permutation(600)[:200]), all_pairs(200, rng)) for _ in range(3)]
    shared = GramPool(x_ND, SETTINGS, 200)
    forward = [measure_sample(shared.sample(pairs, rows), SETTINGS).row() for rows, pairs in draws]
    fresh = GramPool(x_ND, SETTINGS, 200)
    backward = [measure_sample(fresh.sample(pairs, rows), SETTINGS).row() for rows, pairs in draws[::-1]]
    assert forward == backward[::-1]


def test_equal_rows_drawn_from_a_varied_pool_are_refused():
    x_ND = np.random.default_rng(0).standard_normal((40, 6))
    x_ND[:20] = x_ND[0]
    with pytest.raises(NumericsError, match="layer 9: the 12 sampled rows are all equal"):
        GramPool(x_ND, ProxySettings(k=5), label="layer 9").sample(np.array([[0, 1]]), np.arange(12))


def test_extended_precision_rows_are_the_same_rows():
    x = np.random.default_rng(0).standard_normal((30, 4))
    x[3] = x[7]
    assert np.array_equal(identical_rows(x.astype(np.longdouble)), identical_rows(x))
    pairs = np.array([(0, 1), (2, 5), (9, 12)])
    same = [measure(a, pairs, ProxySettings(k=4)).headline for a in (x, x.astype(np.longdouble))]
    assert same[0] == same[1]
