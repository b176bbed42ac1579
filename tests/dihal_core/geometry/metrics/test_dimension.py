"""Intrinsic dimension: exact laws of neighbour distances, and data of known dimension."""

import numpy as np
import pytest

from dihal_core.errors import NumericsError
from dihal_core.geometry.metrics import dimension, measure_metrics, view_of


def poisson_distances(true_dimension, rows, depth, seed=0):
    """Neighbour distances in uniform density: ball volumes grow by independent exponential steps."""
    volume = np.random.default_rng(seed).exponential(size=(rows, depth)).cumsum(axis=1)
    return volume ** (1.0 / true_dimension)


@pytest.mark.parametrize("true_dimension", [1.0, 4.5, 20.0])
def test_estimators_recover_the_dimension_of_uniform_density(true_dimension):
    distance_NK = poisson_distances(true_dimension, 40_000, 32)
    assert dimension.twonn(distance_NK) == pytest.approx(true_dimension, rel=0.02)
    assert dimension.levina_bickel(distance_NK, 10) == pytest.approx(true_dimension, rel=0.02)
    for scale in (1, 2, 4, 16):
        assert dimension.gride(distance_NK, scale) == pytest.approx(true_dimension, rel=0.02)


def test_closed_forms_of_few_distances():
    distance_NK = np.array([[1.0, 2.0, 4.0], [1.0, 8.0, 16.0]])
    assert dimension.twonn(distance_NK) == pytest.approx(2 / np.log(16))
    assert dimension.gride(distance_NK, 1) == pytest.approx(2 / np.log(16))
    # Mean of log(r_3 / r_j): (log 4 + log 2 + log 16 + log 2) / 4.
    assert dimension.levina_bickel(distance_NK, 3) == pytest.approx(4 / np.log(256))


def test_gride_is_the_maximum_of_its_likelihood():
    distance_NK = poisson_distances(3.0, 500, 8, seed=1)
    log_mu = np.log(distance_NK[:, 7] / distance_NK[:, 3])

    def likelihood(d):
        return (np.log(d) + 3 * np.log(np.expm1(d * log_mu)) - (7 * d + 1) * log_mu).sum()

    grid = np.linspace(2.0, 4.0, 20_001)
    best = grid[np.argmax([likelihood(d) for d in grid])]
    assert dimension.gride(distance_NK, 4) == pytest.approx(best, abs=2e-4)


def test_a_plane_in_many_dimensions_has_dimension_two():
    rng = np.random.default_rng(2)
    x_ND = rng.uniform(size=(2500, 2)) @ np.linalg.qr(rng.standard_normal((50, 2)))[0].T
    found = measure_metrics(view_of(x_ND))
    for name in ("dimension_twonn", "dimension_gride_2", "dimension_gride_8", "dimension_mle"):
        assert found[name] == pytest.approx(2.0, rel=0.1), name


def test_identical_rows_are_left_out_and_rows_without_scale_refused():
    distance_NK = poisson_distances(3.0, 5000, 12, seed=3)
    with_copies = np.concatenate([distance_NK, np.zeros((1000, 12))])
    assert dimension.twonn(with_copies) == dimension.twonn(distance_NK)
    assert dimension.levina_bickel(with_copies, 10) == dimension.levina_bickel(distance_NK, 10)
    assert dimension.gride(with_copies, 2) == pytest.approx(dimension.gride(distance_NK, 2))
    for broken in (np.zeros((5, 12)), np.ones((5, 12))):
        with pytest.raises(NumericsError, match="no scale"):
            dimension.twonn(broken)
        with pytest.raises(NumericsError, match="no scale"):
            dimension.levina_bickel(broken, 5)
    with pytest.raises(NumericsError, match="neighbour 16 is asked for, rows have 12"):
        dimension.gride(distance_NK, 8)


def test_distances_of_a_view_are_those_of_the_rows():
    x_ND = np.random.default_rng(4).standard_normal((120, 6)) + 1e4
    x_ND[5] = x_ND[6]
    distance = np.linalg.norm(x_ND[:, None] - x_ND[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    found = view_of(x_ND).distance_NK
    assert found.shape == (120, 64)
    assert found == pytest.approx(np.sort(distance, axis=1)[:, :64], rel=1e-9)
    assert found[5, 0] == 0.0
