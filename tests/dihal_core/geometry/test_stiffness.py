"""The median of pair ratios, found while evaluating few of them exactly."""

import numpy as np
import pytest

from dihal_core.geometry import stiffness
from dihal_core.geometry.blas import inverse_of_factor, syrk_columns
from dihal_core.geometry.stiffness import DualStiffness, median_stiffness, median_with_guide


@pytest.mark.parametrize("count", [1000, 1001])
@pytest.mark.parametrize("error", [0.0, 1e-7, 1e-4, 1e-2, 0.5])
def test_the_guided_median_is_exact_however_rough_the_guide(count, error):
    rng = np.random.default_rng(count)
    exact_M = rng.lognormal(size=count)
    asked = []

    def exact(chosen_C):
        asked.append(len(chosen_C))
        return exact_M[chosen_C]

    rough_M = exact_M * (1 + error * rng.uniform(-1, 1, count))
    assert median_with_guide(rough_M, exact) == np.median(exact_M)
    if error < 1e-6:
        assert sum(asked) < 200


@pytest.mark.parametrize("bad", [np.nan, 0.0, -1.0])
def test_a_guide_with_impossible_values_is_not_used(bad):
    exact_M = np.random.default_rng(0).lognormal(size=700)
    rough_M = exact_M.copy()
    rough_M[3] = bad
    assert median_with_guide(rough_M, lambda chosen: exact_M[chosen]) == np.median(exact_M)


def test_tied_values_give_their_common_value():
    exact_M = np.repeat([1.0, 2.0, 3.0], 300)
    assert median_with_guide(exact_M * (1 + 1e-9), lambda chosen: exact_M[chosen]) == 2.0


@pytest.mark.parametrize("spread", [1.0, 1e3, 1e6])
def test_many_pairs_agree_with_the_eigenvector_route_whatever_the_condition(spread):
    rng = np.random.default_rng(5)
    n, d = 700, 60
    x_nD = rng.standard_normal((n, d)) * np.geomspace(1.0, spread, d)
    x_nD -= x_nD.mean(axis=0)
    pairs_M2 = np.stack([rng.integers(0, n // 2, 3000), rng.integers(n // 2, n, 3000)], axis=1)
    difference_MD = x_nD[pairs_M2[:, 0]] - x_nD[pairs_M2[:, 1]]
    squared_M = (difference_MD**2).sum(axis=1)
    _, singular, basis = np.linalg.svd(x_nD, full_matrices=False)
    for eps in (1e-6, 1.0):
        expected = np.median((difference_MD @ basis.T) ** 2 @ (1 / (singular**2 / (n - 1) + eps)) / squared_M)
        found = median_stiffness(x_nD, syrk_columns(x_nD, 1 / (n - 1)), pairs_M2, squared_M, eps)
        assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("eps", [1e-9, 1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("spread", [1.0, 30.0, 1e4])
def test_the_dual_route_needs_no_inverse_for_a_small_ridge_and_agrees_with_eigenvectors(eps, spread, monkeypatch):
    monkeypatch.setattr(stiffness, "GUIDED_ROWS", 100)
    rng = np.random.default_rng(7)
    n, d = 300, 500
    x_nD = rng.standard_normal((n, d)) * np.geomspace(spread, 1.0, d)
    x_nD -= x_nD.mean(axis=0)
    pairs_M2 = np.stack([rng.integers(0, n // 2, 2000), rng.integers(n // 2, n, 2000)], axis=1)
    squared_M = ((x_nD[pairs_M2[:, 0]] - x_nD[pairs_M2[:, 1]]) ** 2).sum(axis=1)
    dual = DualStiffness(x_nD @ x_nD.T, pairs_M2, squared_M)
    inverses = []
    monkeypatch.setattr(stiffness, "inverse_of_factor", lambda r_DD: inverses.append(1) or inverse_of_factor(r_DD))
    assert dual(eps) == pytest.approx(dual._by_eigenvectors(eps), rel=1e-10)
    if spread == 1.0:
        assert len(inverses) == (eps > 1e-3)


def test_both_routes_agree_where_both_apply():
    rng = np.random.default_rng(6)
    n, d = 50, 40
    x_nD = rng.standard_normal((n, d))
    x_nD -= x_nD.mean(axis=0)
    pairs_M2 = np.stack(np.triu_indices(n, 1), axis=1)
    squared_M = ((x_nD[pairs_M2[:, 0]] - x_nD[pairs_M2[:, 1]]) ** 2).sum(axis=1)
    for eps in (1e-6, 0.1):
        dual = DualStiffness(x_nD @ x_nD.T, pairs_M2, squared_M)(eps)
        assert dual == pytest.approx(
            median_stiffness(x_nD, syrk_columns(x_nD, 1 / (n - 1)), pairs_M2, squared_M, eps), rel=1e-9
        )


@pytest.mark.parametrize("outlier", [1.0, 1e3, 1e5, 1e6])
def test_a_huge_dimension_hides_no_true_direction(outlier):
    """Rows with an exactly diagonal covariance: the ratio of every pair is known in closed form."""
    rng, n, d = np.random.default_rng(0), 205, 200
    start = rng.standard_normal((n, d))
    orthonormal = np.linalg.qr(start - start.mean(axis=0))[0]
    deviation = np.ones(d)
    deviation[0] = outlier
    rows = orthonormal * np.sqrt(n - 1) * deviation
    pairs = np.array([(i, j) for i in range(40) for j in range(i)])
    q = (orthonormal[pairs[:, 0]] - orthonormal[pairs[:, 1]]) * np.sqrt(n - 1)
    squared = ((q * deviation) ** 2).sum(axis=1)
    expected = np.median((q**2 * (deviation**2 / (deviation**2 + 1e-6))).sum(axis=1) / squared)
    covariance = np.triu(np.cov(rows.T))
    assert median_stiffness(rows, covariance, pairs, squared, 1e-6) == pytest.approx(expected, rel=1e-6)
