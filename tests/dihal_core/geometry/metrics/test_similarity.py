"""Similarity of layers: definitions, and layers that are known to be alike or not."""

import numpy as np
import pytest

from dihal_core.errors import ConfigError, NumericsError
from dihal_core.geometry.metrics import METRICS, similarity, view_of


def hsic(x_ND, y_NE):
    """Unbiased HSIC of Song et al. 2012, as it is printed."""
    n = len(x_ND)
    left_NN, right_NN = x_ND @ x_ND.T, y_NE @ y_NE.T
    np.fill_diagonal(left_NN, 0.0)
    np.fill_diagonal(right_NN, 0.0)
    ones = np.ones(n)
    product = (ones @ left_NN @ ones) * (ones @ right_NN @ ones) / ((n - 1) * (n - 2))
    both = np.trace(left_NN @ right_NN) + product
    return (both - 2.0 / (n - 2) * (ones @ left_NN @ right_NN @ ones)) / (n * (n - 3))


def test_cka_is_the_ratio_of_unbiased_hsic():
    rng = np.random.default_rng(0)
    x_ND = rng.standard_normal((150, 30)) + 3.0
    layers = {0: x_ND, 1: x_ND @ rng.standard_normal((30, 70)), 2: rng.standard_normal((150, 20))}
    found = similarity.cka_matrix(layers)
    for i, left in layers.items():
        for j, right in layers.items():
            expected = hsic(left, right) / np.sqrt(hsic(left, left) * hsic(right, right))
            assert found[i, j] == pytest.approx(expected, abs=1e-9)


def test_rotated_and_scaled_layers_are_the_same_and_random_wide_ones_unrelated():
    rng = np.random.default_rng(1)
    x_ND = rng.standard_normal((100, 400))
    rotated = 5.0 * x_ND @ np.linalg.qr(rng.standard_normal((400, 400)))[0] + 2.0
    found = similarity.cka_matrix({0: x_ND, 1: rotated, 2: rng.standard_normal((100, 400))})
    assert found[0, 1] == pytest.approx(1.0, abs=1e-9)
    assert abs(found[0, 2]) < 0.05  # plain CKA would give about 0.8 here
    assert np.array_equal(found, found.T)


def test_overlap_counts_shared_neighbours():
    same = np.array([[1, 2], [0, 2], [0, 1]])
    other = np.array([[2, 3], [3, 0], [3, 4]])
    found = similarity.overlap_matrix({4: same, 9: other})
    assert found == pytest.approx(np.array([[1.0, 2 / 6], [2 / 6, 1.0]]))


def test_a_layer_overlaps_itself_fully_and_noise_by_chance():
    rng = np.random.default_rng(2)
    x_ND = rng.standard_normal((400, 10))
    layers = {0: view_of(x_ND).summary(), 1: view_of(3.0 * x_ND).summary()}
    layers[2] = view_of(rng.standard_normal((400, 10))).summary()
    found = METRICS["neighbour_overlap"].compute(layers)
    assert found[0, 1] == 1.0
    assert found[0, 2] == pytest.approx(10 / 399, abs=0.02)


def test_layers_that_cannot_be_compared_are_refused():
    with pytest.raises(ConfigError, match="row i must be the same token"):
        similarity.cka_matrix({0: np.ones((5, 2)), 1: np.ones((6, 2))})
    with pytest.raises(ConfigError, match="at least 4"):
        similarity.cka_matrix({0: np.eye(3)})
    with pytest.raises(NumericsError, match="layer 7 has no variance"):
        similarity.cka_matrix({2: np.eye(6), 7: np.ones((6, 2))})
    with pytest.raises(ConfigError, match="different lengths"):
        similarity.overlap_matrix({0: np.zeros((5, 2), int), 1: np.zeros((5, 3), int)})
