"""Spectral metrics: closed forms."""

import numpy as np
import pytest

from dihal_core.errors import NumericsError
from dihal_core.geometry.metrics import METRICS, measure_metrics, spectral, view_of
from dihal_core.geometry.proxies import measure


def with_variances(variance_R, n, d, seed=0):
    """Rows whose sample covariance has exactly these eigenvalues."""
    rng = np.random.default_rng(seed)
    count = len(variance_R)
    left = rng.standard_normal((n, count))
    left = np.linalg.qr(left - left.mean(axis=0))[0]
    right = np.linalg.qr(rng.standard_normal((d, count)))[0]
    return (left * np.sqrt(np.asarray(variance_R) * (n - 1))) @ right.T


@pytest.mark.parametrize(("n", "d"), [(60, 20), (30, 80)])
def test_ranks_of_a_flat_spectrum_are_its_length(n, d):
    found = measure_metrics(view_of(with_variances(np.full(8, 3.0), n, d)))
    for name in ("renyi_rank_1", "participation_ratio", "renyi_rank_inf"):
        assert found[name] == pytest.approx(8.0, rel=1e-9)
    assert found["components_90"] == 8.0
    assert found["powerlaw_alpha"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(60, 20), (30, 80)])
def test_renyi_ranks_of_a_known_spectrum(n, d):
    variance = np.array([4.0, 2.0, 1.0, 1.0])
    found = measure_metrics(view_of(with_variances(variance, n, d) + 5.0))
    share = variance / 8
    assert found["renyi_rank_1"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-9)
    assert found["participation_ratio"] == pytest.approx(64 / 22, rel=1e-9)
    assert found["renyi_rank_inf"] == pytest.approx(2.0, rel=1e-9)
    assert found["components_90"] == 4.0
    assert found["renyi_rank_1"] > found["participation_ratio"] > found["renyi_rank_inf"]


def test_the_infinite_rank_is_the_effective_rank_of_the_score():
    x_ND = np.random.default_rng(1).standard_normal((70, 30)) * np.arange(1, 31)
    found = METRICS["renyi_rank_inf"].compute(view_of(x_ND))
    assert found == pytest.approx(measure(x_ND, np.array([[0, 1]])).effective_rank, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("count", [20, 120])
def test_a_power_law_has_its_exponent(alpha, count):
    assert spectral.powerlaw_alpha(np.arange(1, count + 1.0) ** -alpha) == pytest.approx(alpha, rel=1e-9)
    with pytest.raises(NumericsError, match="2 variances have no power-law slope"):
        spectral.powerlaw_alpha(np.array([2.0, 1.0]))


@pytest.mark.parametrize(("n", "d"), [(60, 20), (30, 80)])
def test_rankme_is_that_of_the_singular_values_of_the_rows_as_stored(n, d):
    x_ND = np.random.default_rng(2).standard_normal((n, d)) + 2.0
    s = np.linalg.svd(x_ND, compute_uv=False)
    q = s / s.sum() + 1e-7
    assert METRICS["rankme"].compute(view_of(x_ND)) == pytest.approx(np.exp(-(q * np.log(q)).sum()), rel=1e-6)
    flat = np.linalg.qr(np.random.default_rng(3).standard_normal((60, 6)))[0]
    assert METRICS["rankme"].compute(view_of(flat)) == pytest.approx(6.0, rel=1e-5)


def test_the_mean_cosine_is_that_of_all_pairs():
    x_ND = np.random.default_rng(4).standard_normal((40, 7)) + 1.0
    unit = x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)
    upper = np.triu_indices(40, 1)
    assert METRICS["anisotropy"].compute(view_of(x_ND)) == pytest.approx((unit @ unit.T)[upper].mean(), rel=1e-9)
    assert METRICS["anisotropy_centred"].compute(view_of(x_ND)) < 0.1
    assert spectral.mean_cosine(np.outer(np.arange(4.0), [1.0, 2.0])) == pytest.approx(1.0)
    with pytest.raises(NumericsError, match="a mean cosine needs two"):
        spectral.mean_cosine(np.zeros((5, 3)))


def test_kurtosis_of_two_values_is_one_and_of_a_gaussian_near_three():
    assert METRICS["kurtosis"].compute(view_of(np.tile([[1.0, 3.0], [2.0, -1.0]], (20, 1)))) == pytest.approx(1.0)
    gaussian = np.random.default_rng(5).standard_normal((4000, 30))
    assert METRICS["kurtosis"].compute(view_of(gaussian)) == pytest.approx(3.0, rel=0.03)
