"""Neighbours and local spectra against brute force."""

import numpy as np
import pytest

from dihal_core.geometry.neighbourhoods import (
    bound_top_eigenvalues,
    list_depth,
    local_grams,
    middle_top_eigenvalues,
    nearest,
    nearest_in_subsample,
    top_eigenvalues,
)


def brute_nearest(x_ND, k):
    distance_NN = ((x_ND[:, None] - x_ND[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distance_NN, np.inf)
    return np.argsort(distance_NN, axis=1)[:, :k]


def centred(n, d, seed=0):
    x_ND = np.random.default_rng(seed).standard_normal((n, d))
    return x_ND - x_ND.mean(axis=0)


def test_nearest_rows_are_those_of_a_brute_force_search():
    x_ND = centred(600, 7)
    assert np.array_equal(nearest(x_ND @ x_ND.T, 12), brute_nearest(x_ND, 12))


@pytest.mark.parametrize("depth", [8, 20, 60])
def test_filtered_lists_give_the_neighbours_within_the_subsample_also_when_they_run_out(depth):
    x_ND = centred(400, 6, seed=1)
    gram_NN = x_ND @ x_ND.T
    rows_n = np.random.default_rng(2).permutation(400)[:130]
    found_nk = nearest_in_subsample(nearest(gram_NN, depth), rows_n, 8, gram_NN)
    assert np.array_equal(found_nk, rows_n[brute_nearest(x_ND[rows_n], 8)])


def test_lists_are_deep_enough_for_nearly_all_rows_and_absent_where_useless():
    depth = list_depth(8000, 3000, 10)
    assert 50 < depth < 100
    rng = np.random.default_rng(0)
    found = rng.hypergeometric(2999, 5000, depth, size=200_000)
    assert (found < 10).mean() < 1e-3
    assert list_depth(8000, 500, 10) is None


@pytest.mark.parametrize("rank", [1, 2, 10])
def test_bounds_enclose_the_largest_eigenvalue(rank):
    factor = np.random.default_rng(rank).standard_normal((500, 11, rank))
    matrices = factor @ factor.transpose(0, 2, 1)
    lower, upper = bound_top_eigenvalues(matrices)
    exact = np.linalg.eigvalsh(matrices)[:, -1]
    assert (lower <= exact * (1 + 1e-13)).all()
    assert (exact <= upper * (1 + 1e-13)).all()
    assert np.median(1 - lower / exact) < 1e-3


@pytest.mark.parametrize("count", [200, 201, 1])
@pytest.mark.parametrize("zeros", [0.0, 0.3, 1.0])
def test_the_middle_eigenvalues_equal_those_of_all_matrices(count, zeros):
    rng = np.random.default_rng(count)
    factor = rng.standard_normal((count, 6, 3)) * rng.lognormal(size=(count, 1, 1))
    factor[rng.random(count) < zeros] = 0.0
    matrices = factor @ factor.transpose(0, 2, 1)
    every = np.sort(np.linalg.eigvalsh(matrices)[:, -1])
    found = middle_top_eigenvalues(matrices)
    assert found == pytest.approx((every[(count - 1) // 2], every[count // 2]), rel=1e-12, abs=1e-14)
    assert np.sort(top_eigenvalues(matrices)) == pytest.approx(every, rel=1e-12, abs=1e-14)


def test_a_tiny_far_neighbourhood_is_measured_from_rows():
    rng = np.random.default_rng(3)
    cluster = 1e3 + 1e-5 * rng.standard_normal((6, 4))
    x_ND = np.concatenate([cluster, -cluster, rng.standard_normal((6, 4))])
    x_ND -= x_ND.mean(axis=0)
    found = local_grams(x_ND @ x_ND.T, x_ND, np.arange(len(x_ND)), np.arange(6)[None])
    block = x_ND[:6] - x_ND[:6].mean(axis=0)
    expected = np.linalg.svd(block, compute_uv=False)[0] ** 2
    assert top_eigenvalues(found)[0] == pytest.approx(expected, rel=1e-9)
