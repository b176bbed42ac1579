"""Ridge R^2 and the logit lens: known answers."""

import numpy as np
import pytest

from dihal_core.errors import ConfigError, NumericsError
from dihal_core.geometry.metrics.predict import folds_of, logit_lens_ce, ridge_r2


@pytest.mark.parametrize(("n", "e"), [(300, 10), (60, 90)])
def test_a_linear_layer_is_predicted_and_noise_is_not(n, e):
    rng = np.random.default_rng(n)
    embedding_NE = rng.standard_normal((n, e)) * np.exp(-np.arange(e) / 4.0) + 1.0
    linear_ND = embedding_NE @ rng.standard_normal((e, 7)) + 5.0
    assert ridge_r2(embedding_NE, linear_ND) > 0.97
    assert ridge_r2(embedding_NE, rng.standard_normal((n, 7))) < 0.05


def test_half_explained_variance_gives_half():
    rng = np.random.default_rng(1)
    embedding_NE = rng.standard_normal((6000, 8))
    noisy_ND = embedding_NE + rng.standard_normal((6000, 8))
    assert ridge_r2(embedding_NE, noisy_ND) == pytest.approx(0.5, abs=0.02)


def test_it_equals_a_plain_ridge_fitted_fold_by_fold():
    rng = np.random.default_rng(2)
    left, right = rng.standard_normal((80, 6)) + 1.0, rng.standard_normal((80, 3))
    right += left[:, :3]
    fold_N = folds_of(np.arange(80), 5, 0)
    error = total = 0.0
    for fold in range(5):
        train, test = fold_N != fold, fold_N == fold
        a, b = left[train] - left[train].mean(0), right[train] - right[train].mean(0)
        penalty = 1e-3 * np.trace(a.T @ a) / 6
        stacked = np.concatenate([a, np.sqrt(penalty) * np.eye(6)])
        weight = np.linalg.lstsq(stacked, np.concatenate([b, np.zeros((6, 3))]), rcond=None)[0]
        truth = right[test] - right[train].mean(0)
        error += ((truth - (left[test] - left[train].mean(0)) @ weight) ** 2).sum()
        total += (truth**2).sum()
    assert ridge_r2(left, right) == pytest.approx(1 - error / total, rel=1e-9)


def test_rows_of_one_document_share_a_fold_and_do_not_flatter_the_fit():
    rng = np.random.default_rng(3)
    document_N = np.repeat(np.arange(30), 10)
    embedding_NE = np.repeat(rng.standard_normal((30, 40)), 10, axis=0) + 1e-3 * rng.standard_normal((300, 40))
    hidden_ND = np.repeat(rng.standard_normal((30, 5)), 10, axis=0)
    fold_N = folds_of(document_N, 5, 0)
    assert all(len(set(fold_N[document_N == document])) == 1 for document in range(30))
    assert ridge_r2(embedding_NE, hidden_ND) > 0.9
    assert ridge_r2(embedding_NE, hidden_ND, document_N) < 0.1


def test_a_constant_embedding_predicts_the_mean():
    hidden_ND = np.random.default_rng(4).standard_normal((50, 3))
    assert ridge_r2(np.ones((50, 4)), hidden_ND) == pytest.approx(0.0, abs=1e-12)


def test_what_cannot_be_predicted_is_refused():
    with pytest.raises(ConfigError, match="got 3 embedding rows and 4 hidden rows"):
        ridge_r2(np.ones((3, 2)), np.ones((4, 2)))
    with pytest.raises(ConfigError, match="needs at least two documents"):
        ridge_r2(np.ones((4, 2)), np.ones((4, 2)), np.zeros(4))
    with pytest.raises(NumericsError, match="no variance"):
        ridge_r2(np.random.default_rng(0).standard_normal((20, 2)), np.ones((20, 2)))


def test_a_flat_head_costs_the_log_of_the_vocabulary_and_a_sure_one_nothing():
    hidden_ND, target_N = np.eye(7), np.arange(7)
    assert logit_lens_ce(hidden_ND, lambda x_BD: np.zeros((len(x_BD), 50)), target_N) == pytest.approx(np.log(50))
    assert logit_lens_ce(hidden_ND, lambda x_BD: 1e4 * x_BD, target_N) == pytest.approx(0.0, abs=1e-12)
    wrong = logit_lens_ce(hidden_ND, lambda x_BD: 1e4 * x_BD, np.roll(target_N, 1), block=2)
    assert wrong == pytest.approx(1e4)


def test_a_target_outside_the_vocabulary_or_a_bad_logit_is_refused():
    with pytest.raises(ConfigError, match="pass one target per row"):
        logit_lens_ce(np.eye(3), lambda x_BD: x_BD, np.arange(2))
    with pytest.raises(ConfigError, match="targets reach 3, the head gives 3 logits"):
        logit_lens_ce(np.eye(3), lambda x_BD: x_BD, np.array([0, 1, 3]))
    with pytest.raises(NumericsError, match="not finite among rows 0..2"):
        logit_lens_ce(np.eye(3), lambda x_BD: x_BD * np.nan, np.arange(3))
