"""The proxies against a slow reference, their identities, and what they refuse."""

from typing import get_args

import numpy as np
import pytest

from dihal_core.config import GeometrySettings, ProxySettings
from dihal_core.errors import ConfigError, NumericsError
from dihal_core.geometry.neighbourhoods import FORMS
from dihal_core.geometry.pool import GramPool
from dihal_core.geometry.proxies import PROXIES, measure, measure_sample, row_columns

SETTINGS = GeometrySettings()
SHAPES = [(60, 100), (100, 100), (300, 40), (90, 89), (41, 40)]


def plain(n, d, rng):
    return rng.standard_normal((n, d)) * np.exp(0.7 * rng.standard_normal(d))


def worst(found, expected):
    return max(
        abs(getattr(found, ridge)[name] / value - 1.0) for ridge, row in expected.items() for name, value in row.items()
    )


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("kind", ["plain", "constant column", "offset", "large scale", "float32"])
def test_proxies_equal_the_slow_reference(n, d, kind, slow_reference, all_pairs):
    rng = np.random.default_rng(n * d)
    x_ND = plain(n, d, rng)
    if kind == "constant column":
        x_ND[:, d // 2] = 3.25
    elif kind == "offset":
        x_ND += 1e3 * rng.standard_normal(d)
    elif kind == "large scale":
        x_ND *= 1e4
    elif kind == "float32":
        x_ND = x_ND.astype(np.float32)
    pairs_M2 = all_pairs(n, rng)
    assert worst(measure(x_ND, pairs_M2, SETTINGS), slow_reference(x_ND, pairs_M2, SETTINGS)) < 1e-9


def by_eigh(x_ND, pairs_M2, eps):
    """The definitions as printed: D x D covariances, their eigendecompositions, no inverse."""
    values_D, vectors_DD = np.linalg.eigh(np.cov(x_ND.T))
    difference_MD = x_ND[pairs_M2[:, 0]] - x_ND[pairs_M2[:, 1]]
    ratio_M = ((difference_MD @ vectors_DD) ** 2 / (values_D.clip(0) + eps)).sum(axis=1) / (difference_MD**2).sum(
        axis=1
    )
    distance_NN = np.linalg.norm(x_ND[:, None] - x_ND[None], axis=2)
    near_Nm = np.argsort(distance_NN, axis=1)[:, : SETTINGS.k + 1]  # the row itself comes first
    local_N = np.array([np.linalg.eigh(np.cov(x_ND[near_m].T))[0][-1] for near_m in near_Nm])
    return {
        "curvature": np.median(1.0 / (local_N + eps)),
        "monotonicity": np.median(ratio_M),
        "effective_rank": values_D.sum() / values_D[-1],
    }


@pytest.mark.parametrize(("n", "d"), [(40, 60), (60, 60), (90, 25)])
@pytest.mark.parametrize("kind", ["plain", "constant column", "common offset"])
def test_proxies_equal_eigendecompositions_of_covariances(n, d, kind, all_pairs):
    rng = np.random.default_rng(n + d)
    x_ND = plain(n, d, rng)
    if kind == "constant column":
        x_ND[:, 3] = -2.0
    elif kind == "common offset":
        x_ND += 20.0
    pairs_M2 = all_pairs(n, rng)
    found = measure(x_ND, pairs_M2, SETTINGS)
    assert dict(found.headline) == pytest.approx(by_eigh(x_ND, pairs_M2, SETTINGS.eps), rel=1e-9)


CHOICES = {
    "inverse trace": {"curvature_form": "inverse_trace"},
    "k over trace": {"curvature_form": "k_over_trace"},
    "cosine neighbours": {"metric": "cosine"},
    "without the point itself": {"include_self": False},
    "relative ridge": {"ridge": "relative", "eps_relative": 0.1},
    "unit trace": {"scaling": "unit_trace", "eps": 1e-3},
    "unit trace, relative ridge": {"scaling": "unit_trace", "ridge": "relative"},
    "token rms": {"scaling": "token_rms"},
    "k and eps": {"k": 4, "eps": 0.3},
    "all together": {
        "curvature_form": "k_over_trace", "metric": "cosine", "include_self": False, "k": 7,
        "scaling": "token_rms", "ridge": "relative",
    },
}  # fmt: skip


@pytest.mark.parametrize(("n", "d"), [(60, 100), (150, 40)])
@pytest.mark.parametrize("choice", sorted(CHOICES))
def test_every_open_choice_equals_the_slow_reference(n, d, choice, slow_reference, all_pairs):
    rng = np.random.default_rng(n + d)
    settings = ProxySettings(**CHOICES[choice])
    x_ND = plain(n, d, rng) + 2.0 * rng.standard_normal(d)
    pairs_M2 = all_pairs(n, rng)
    found = measure(x_ND, pairs_M2, settings)
    assert worst(found, slow_reference(x_ND, pairs_M2, settings)) < 1e-9
    default = measure(x_ND, pairs_M2, ProxySettings())
    assert max(abs(found.headline[name] / default.headline[name] - 1.0) for name in PROXIES) > 1e-6
    assert found.row()["monotonicity"] == found.headline["monotonicity"]
    gathered = GramPool(np.concatenate([x_ND, x_ND[:9] + 1.0]), settings, n).sample(pairs_M2, np.arange(n))
    assert worst(measure_sample(gathered, settings), {"headline": found.headline, "relative": found.relative}) < 1e-9


def test_the_curvature_forms_in_settings_are_those_in_the_table():
    assert set(FORMS) == set(get_args(ProxySettings.model_fields["curvature_form"].annotation))


def test_the_identity_ratio_is_that_of_the_rows_whatever_the_scaling(all_pairs):
    rng = np.random.default_rng(1)
    x_ND, pairs_M2 = 50.0 * plain(40, 60, rng), all_pairs(40, rng)
    for scaling in ("raw", "unit_trace"):
        found = measure(x_ND, pairs_M2, ProxySettings(scaling=scaling, eps=1e-12))
        assert found.identity_ratio == pytest.approx(1.0, rel=1e-6)


def test_cosine_neighbours_do_not_depend_on_row_lengths(all_pairs):
    """Rows of one direction and any length are neighbours; their covariance is still that of the rows."""
    rng = np.random.default_rng(2)
    x_ND = np.repeat(rng.standard_normal((6, 8)), 6, axis=0) * rng.uniform(1, 9, (36, 1))
    found = measure(x_ND, all_pairs(36, rng), ProxySettings(k=5, metric="cosine", eps=1e-12))
    variance = [np.linalg.eigvalsh(np.cov(x_ND[first : first + 6].T))[-1] for first in range(0, 36, 6)]
    assert found.curvature == pytest.approx(np.median(1.0 / np.repeat(variance, 6)), rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(60, 100), (300, 40), (200, 230)])
@pytest.mark.parametrize("kind", ["duplicates", "low rank", "outlier dimension", "outlier rows", "tight clusters"])
def test_proxies_of_degenerate_rows_are_within_the_stated_bound(n, d, kind, slow_reference, all_pairs):
    rng = np.random.default_rng(n + d)
    x_ND = plain(n, d, rng)
    if kind == "duplicates":
        x_ND[n // 2 :] = x_ND[: n - n // 2]
    elif kind == "low rank":
        x_ND = 1e3 * rng.standard_normal((n, 7)) @ rng.standard_normal((7, d))
    elif kind == "outlier dimension":
        x_ND[:, 0] *= 1e3
    elif kind == "outlier rows":
        x_ND[:4, 1] += 1e4
    else:
        x_ND = (10 * rng.standard_normal((5, d)))[rng.integers(0, 5, n)] + 0.01 * x_ND
    pairs_M2 = all_pairs(n, rng)
    assert worst(measure(x_ND, pairs_M2, SETTINGS), slow_reference(x_ND, pairs_M2, SETTINGS)) < 1e-6


def test_an_even_median_of_curvature_is_the_mean_of_the_two_middle_values(slow_reference, all_pairs):
    rng = np.random.default_rng(8)
    x_ND = plain(14, 5, rng) * rng.gamma(1.0, size=(14, 1))
    pairs_M2 = all_pairs(14, rng)
    settings = GeometrySettings(k=3, eps=0.5, large_size=500)
    found = measure(x_ND, pairs_M2, settings)
    assert found.curvature == pytest.approx(
        slow_reference(x_ND, pairs_M2, settings)["headline"]["curvature"], rel=1e-12
    )


# ------------------------------------------------------------------------------ closed forms
def test_a_regular_simplex_has_closed_form_proxies(all_pairs):
    n, k, eps = 30, 10, 1e-3
    found = measure(np.eye(n), all_pairs(n, np.random.default_rng(0)), GeometrySettings(k=k, eps=eps))
    assert found.curvature == pytest.approx(1.0 / (1.0 / k + eps), rel=1e-12)
    assert found.effective_rank == pytest.approx(n - 1, rel=1e-12)
    # All variances are 1 / (n - 1), all squared distances 2.
    assert found.monotonicity == pytest.approx(1.0 / (1.0 / (n - 1) + eps), rel=1e-12)
    assert found.trace == pytest.approx(1.0, rel=1e-12)
    assert found.median_squared_distance == pytest.approx(2.0, rel=1e-12)


def test_the_mean_stiffness_over_all_pairs_is_a_ratio_of_traces():
    rng = np.random.default_rng(2)
    for n, d in ((25, 8), (12, 30)):
        x_ND, eps = plain(n, d, rng), 0.3
        numerator = denominator = 0.0
        pool = GramPool(x_ND, ProxySettings(k=3))
        for pair in np.stack(np.triu_indices(n, 1), axis=1):
            sample = pool.sample(pair[None, :])
            numerator += sample.median_stiffness(eps) * sample.squared_M[0]
            denominator += sample.squared_M[0]
        variance = np.linalg.eigvalsh(np.cov(x_ND.T)).clip(0)
        assert numerator / denominator == pytest.approx((variance / (variance + eps)).sum() / variance.sum(), rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(50, 49), (50, 50), (50, 400)])
def test_stiffness_without_ridge_is_the_inverse_distance_when_rows_do_not_exceed_dimensions(n, d, all_pairs):
    rng = np.random.default_rng(n + d)
    settings = GeometrySettings(eps=1e-13)
    found = measure(plain(n, d, rng), all_pairs(n, rng), settings)
    assert found.identity_ratio == pytest.approx(1.0, rel=1e-8)
    assert found.monotonicity == pytest.approx(2 * (n - 1) / found.median_squared_distance, rel=1e-8)


def test_isotropic_rows_have_effective_rank_near_their_dimension_and_stiffness_near_the_inverse_variance(all_pairs):
    rng = np.random.default_rng(3)
    found = measure(2.0 * rng.standard_normal((2500, 4)), all_pairs(2500, rng), SETTINGS)
    assert found.effective_rank == pytest.approx(4.0, rel=0.06)
    assert found.monotonicity == pytest.approx(0.25, rel=0.06)


def test_effective_rank_is_the_last_of_the_renyi_ranks(all_pairs):
    rng = np.random.default_rng(4)
    x_ND = plain(80, 20, rng)
    share = np.linalg.eigvalsh(np.cov(x_ND.T))
    share = share / share.sum()
    shannon, second = np.exp(-(share * np.log(share)).sum()), 1.0 / (share**2).sum()
    found = measure(x_ND, all_pairs(80, rng), SETTINGS).effective_rank
    assert shannon > second > found
    assert found == pytest.approx(1.0 / share.max(), rel=1e-10)


# ------------------------------------------------------------------------------ invariances, for every proxy
@pytest.mark.parametrize("name", sorted(PROXIES))
@pytest.mark.parametrize(("n", "d"), [(60, 25), (40, 50)])
def test_every_proxy_is_finite_reproducible_and_invariant(name, n, d, all_pairs):
    rng = np.random.default_rng(5)
    x_ND, pairs_M2 = plain(n, d, rng), all_pairs(n, rng)
    value = measure(x_ND, pairs_M2, SETTINGS).headline[name]
    assert np.isfinite(value)
    assert value > 0
    assert PROXIES[name].sign in (-1, 1)
    assert value == measure(x_ND, pairs_M2, SETTINGS).headline[name]
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    order = rng.permutation(n)
    same = {
        "rotation": (x_ND @ rotation, pairs_M2),
        "translation": (x_ND + rng.standard_normal(d), pairs_M2),
        "row order": (x_ND[order], np.argsort(order)[pairs_M2]),
        "pair order": (x_ND, pairs_M2[::-1, ::-1]),
    }
    for label, (moved_ND, moved_M2) in same.items():
        assert measure(moved_ND, moved_M2, SETTINGS).headline[name] == pytest.approx(value, rel=1e-9), label


@pytest.mark.parametrize(("n", "d"), [(60, 25), (40, 50)])
def test_scaling_rows_divides_curvature_and_stiffness_by_its_square_and_leaves_the_rank(n, d, all_pairs):
    rng = np.random.default_rng(6)
    x_ND, pairs_M2 = plain(n, d, rng), all_pairs(n, rng)
    small = measure(x_ND, pairs_M2, GeometrySettings(eps=1e-3))
    large = measure(7.0 * x_ND, pairs_M2, GeometrySettings(eps=49e-3))
    assert large.curvature == pytest.approx(small.curvature / 49, rel=1e-10)
    assert large.monotonicity == pytest.approx(small.monotonicity / 49, rel=1e-10)
    assert large.effective_rank == pytest.approx(small.effective_rank, rel=1e-10)
    assert large.relative["curvature"] == pytest.approx(small.relative["curvature"] / 49, rel=1e-10)


def test_unit_trace_proxies_equal_a_measurement_of_rescaled_rows(all_pairs):
    rng = np.random.default_rng(7)
    x_ND, pairs_M2 = 30 * plain(60, 25, rng), all_pairs(60, rng)
    found = measure(x_ND, pairs_M2, SETTINGS)
    rescaled = measure(x_ND / np.sqrt(found.trace), pairs_M2, SETTINGS)
    assert rescaled.trace == pytest.approx(1.0, rel=1e-12)
    for name, value in found.unit_trace().items():
        assert value == pytest.approx(rescaled.relative[name], rel=1e-9)


@pytest.mark.parametrize("backend", ["numpy", "torch-cpu"])
@pytest.mark.parametrize("eps", [1e-30, 1e-15, 1e-6])
def test_directions_without_variance_add_nothing_however_small_the_ridge(eps, backend, all_pairs):
    rng = np.random.default_rng(11)
    x_ND, pairs_M2 = 100.0 * plain(90, 20, rng), all_pairs(90, rng)
    rotation = np.linalg.qr(rng.standard_normal((25, 25)))[0][:20]
    settings = ProxySettings(eps=eps, backend=backend)
    expected = measure(x_ND, pairs_M2, settings).monotonicity
    assert measure(x_ND @ rotation, pairs_M2, settings).monotonicity == pytest.approx(expected, rel=1e-9)


def test_a_table_row_has_the_declared_columns_in_order(all_pairs):
    rng = np.random.default_rng(9)
    row = measure(plain(30, 8, rng), all_pairs(30, rng), SETTINGS).row()
    assert list(row) == row_columns()
    assert row["rows"] == 30


# ------------------------------------------------------------------------------ what is refused
def test_pairs_of_identical_rows_are_dropped_and_counted(slow_reference, all_pairs):
    rng = np.random.default_rng(10)
    x_ND = plain(60, 25, rng)
    x_ND[[3, 5]] = x_ND[1]
    x_ND[7] = -x_ND[8] * 0.0
    x_ND[9] = x_ND[7]
    pairs_M2 = all_pairs(60, rng, limit=1770)
    found = measure(x_ND, pairs_M2, SETTINGS)
    assert found.dropped_pairs == 4  # (1,3), (1,5), (3,5), (7,9): minus zero equals zero
    assert worst(found, slow_reference(x_ND, pairs_M2, SETTINGS)) < 1e-9


def test_neighbourhoods_of_identical_rows_have_curvature_one_over_eps():
    x_ND = np.repeat(np.eye(4), 12, axis=0)
    found = measure(x_ND, np.array([[0, 12], [0, 24]]), GeometrySettings(k=10, eps=1e-6))
    assert found.curvature == pytest.approx(1e6, rel=1e-12)


@pytest.mark.parametrize(
    ("rows", "pairs", "message"),
    [
        (11, [[0, 1]], "got 11 rows for k = 10; at least k [+] 2 = 12"),
        (1, [[0, 0]], "got 1 rows"),
        (20, [[0, 20]], "pairs name rows 0..20 of 20"),
        (20, [[-1, 3]], "pairs name rows -1..3"),
        (20, [[4, 4]], "joins row 4 with itself"),
        (20, [[0, 1]] * 191, "got 191 pairs of 20 rows; only 190 exist"),
        (20, [], "pass integers of shape"),
        (20, [[0.5, 1.0]], "pass integers of shape"),
    ],
)
def test_impossible_requests_are_refused_in_a_sentence(rows, pairs, message):
    x_ND = np.random.default_rng(0).standard_normal((rows, 5))
    with pytest.raises(ConfigError, match=message):
        measure(x_ND, np.array(pairs), SETTINGS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_layer_and_row(value):
    x_ND = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    x_ND[17, 2] = value
    with pytest.raises(NumericsError, match="layer 4: row 17 holds .* in column 2"):
        measure(x_ND, np.array([[0, 1]]), SETTINGS, label="layer 4")


@pytest.mark.parametrize("choice", [{"metric": "cosine"}, {"scaling": "token_rms"}])
def test_a_row_of_zeros_has_no_direction(choice):
    x_ND = np.random.default_rng(0).standard_normal((30, 5))
    x_ND[12] = 0.0
    with pytest.raises(NumericsError, match="layer 3: row 12 is all zeros"):
        measure(x_ND, np.array([[0, 1]]), ProxySettings(**choice), label="layer 3")


def test_one_row_without_itself_is_no_neighbourhood():
    with pytest.raises(ValueError, match="leaves one row"):
        ProxySettings(k=1, include_self=False)


@pytest.mark.parametrize("scale", [1e-170, 1e170])
def test_magnitudes_beyond_float64_are_refused_instead_of_giving_nan(scale):
    x_ND = scale * np.random.default_rng(0).standard_normal((30, 5))
    with pytest.raises(NumericsError, match="layer 1: the total variance is"):
        measure(x_ND, np.array([[0, 1]]), SETTINGS, label="layer 1")


@pytest.mark.parametrize("dtype", ["complex128", "U3", "bool"])
def test_values_that_are_no_real_numbers_are_refused(dtype):
    with pytest.raises(ConfigError, match="pass real numbers"):
        measure(np.ones((30, 5)).astype(dtype), np.array([[0, 1]]), SETTINGS)


def test_rows_without_variance_are_refused():
    with pytest.raises(NumericsError, match="layer 2: all 30 rows are equal"):
        measure(np.full((30, 5), 1.7), np.array([[0, 1]]), SETTINGS, label="layer 2")


def test_a_sample_whose_pairs_all_join_identical_rows_is_refused():
    x_ND = np.random.default_rng(0).standard_normal((30, 5))
    x_ND[1] = x_ND[0]
    with pytest.raises(NumericsError, match="all 1 sampled pairs join identical rows"):
        measure(x_ND, np.array([[0, 1]]), SETTINGS)
