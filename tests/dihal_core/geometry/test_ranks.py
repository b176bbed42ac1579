"""Rank correlations against SciPy and by hand."""

import numpy as np
import pytest
import scipy.stats

from dihal_core.geometry.ranks import kendall, partial_spearman, permutation_p, rank, spearman


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_equal_scipys_also_with_ties(ties):
    rng = np.random.default_rng(0)
    x_RP, y_RP = rng.standard_normal((2, 20, 15))
    if ties:
        x_RP, y_RP = np.round(x_RP), np.round(y_RP)
    for x, y, rho, tau in zip(x_RP, y_RP, spearman(x_RP, y_RP), kendall(x_RP, y_RP), strict=True):
        assert rho == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
        assert tau == pytest.approx(scipy.stats.kendalltau(x, y).statistic, abs=1e-12)
        assert rank(x) == pytest.approx(scipy.stats.rankdata(x))


def test_a_constant_side_has_no_correlation():
    assert np.isnan(spearman(np.ones(5), np.arange(5)))
    assert np.isnan(kendall(np.arange(5), np.ones(5)))


def test_the_partial_correlation_equals_its_textbook_formula():
    rng = np.random.default_rng(1)
    given = rng.standard_normal(30)
    x, y = given + rng.standard_normal(30), -given + rng.standard_normal(30)
    xy, xz, yz = spearman(x, y), spearman(x, given), spearman(y, given)
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_spearman(x, y, given) == pytest.approx(expected, abs=1e-12)


def test_nothing_is_left_of_a_ranking_that_the_other_determines():
    given = np.arange(12.0)
    assert np.isnan(partial_spearman(np.exp(given), np.random.default_rng(0).standard_normal(12), given))


def test_permutation_p_is_small_for_equal_rankings_and_uniform_for_unrelated_ones():
    rng = np.random.default_rng(2)
    assert permutation_p(np.arange(10.0), np.arange(10.0), spearman, 999, rng) == pytest.approx(1 / 1000, abs=1e-3)
    p = [permutation_p(*rng.standard_normal((2, 10)), spearman, 99, rng) for _ in range(200)]
    assert np.mean(p) == pytest.approx(0.5, abs=0.08)
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.07)
    assert permutation_p(np.arange(5.0), np.arange(5.0), kendall, 0, rng) is None
