"""The score of proxies: by hand, and under invariances."""

from typing import get_args

import numpy as np
import pytest

from dihal_core.config import ScoreSettings
from dihal_core.errors import ConfigError, NumericsError
from dihal_core.geometry.proxies import PROXIES
from dihal_core.geometry.scoring import AGGREGATES, TRANSFORMS, score_proxies, zscore


def values(layers=6, samples=4, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.lognormal(size=(layers, samples)) for name in PROXIES}


def test_the_score_is_the_signed_sum_of_z_scores_by_hand():
    found = score_proxies(
        {
            "curvature": np.array([[1.0], [2.0], [3.0]]),
            "monotonicity": np.array([[5.0], [5.0], [8.0]]),
            "effective_rank": np.array([[2.0], [4.0], [6.0]]),
        }
    )
    step = np.sqrt(1.5)
    assert found.score_L == pytest.approx([-step + step - np.sqrt(0.5), -np.sqrt(0.5), np.sqrt(2.0)])
    assert found.selected == 2
    assert found.constant == ()


def test_z_scores_are_taken_inside_each_subsample_before_the_mean():
    plain = values()
    scaled = {name: array * 10.0 ** np.arange(4) for name, array in plain.items()}
    assert score_proxies(scaled).score_LS == pytest.approx(score_proxies(plain).score_LS, abs=1e-12)
    assert score_proxies(plain).score_L == pytest.approx(score_proxies(plain).score_LS.mean(axis=1))


def test_scores_sum_to_zero_and_follow_the_order_of_layers():
    plain = values()
    found = score_proxies(plain)
    assert found.score_LS.sum(axis=0) == pytest.approx(np.zeros(4), abs=1e-12)
    order = np.random.default_rng(1).permutation(6)
    moved = score_proxies({name: array[order] for name, array in plain.items()})
    assert moved.score_L == pytest.approx(found.score_L[order])


def test_the_score_of_means_and_the_log_score_are_those_of_the_transformed_proxies():
    plain = values()
    means = {name: array.mean(axis=1, keepdims=True) for name, array in plain.items()}
    assert score_proxies(plain, aggregate="score_of_means").score_L == pytest.approx(score_proxies(means).score_L)
    assert score_proxies(plain, aggregate="score_of_means").score_LS == pytest.approx(score_proxies(plain).score_LS)
    logs = {name: np.log(array) for name, array in plain.items()}
    assert score_proxies(plain, transform="log").score_L == pytest.approx(score_proxies(logs).score_L)
    with pytest.raises(NumericsError, match="monotonicity of layer position 0, subsample 0 is -1"):
        score_proxies({**plain, "monotonicity": -np.ones((6, 4))}, transform="log")
    with pytest.raises(ConfigError, match="choose from mean_of_scores, score_of_means and linear, log"):
        score_proxies(plain, aggregate="median")


def test_the_choices_of_the_score_in_settings_are_those_in_the_tables():
    assert set(TRANSFORMS) == set(get_args(ScoreSettings.model_fields["transform"].annotation))
    assert set(AGGREGATES) == set(get_args(ScoreSettings.model_fields["aggregate"].annotation))


def test_a_constant_proxy_contributes_nothing_and_is_named():
    plain = values()
    plain["monotonicity"] = np.full((6, 4), 0.1) * (1 + 1e-16)
    found = score_proxies(plain)
    assert found.constant == ("monotonicity",)
    assert found.score_LS == pytest.approx(zscore(plain["curvature"]) - zscore(plain["effective_rank"]))
    flat = score_proxies({name: np.ones((3, 2)) for name in PROXIES})
    assert np.array_equal(flat.score_LS, np.zeros((3, 2)))


def test_ties_go_to_the_lowest_layer():
    tied = {name: np.array([[1.0], [3.0], [3.0]]) for name in ("curvature", "monotonicity")}
    assert score_proxies({**tied, "effective_rank": np.ones((3, 1))}).selected == 1


def test_impossible_scores_are_refused():
    broken = values()
    broken["curvature"][2, 1] = np.nan
    with pytest.raises(NumericsError, match="curvature of layer position 2, subsample 1 is nan"):
        score_proxies(broken)
    with pytest.raises(ConfigError, match="one candidate layer has no z-score"):
        score_proxies(values(layers=1))
    with pytest.raises(ConfigError, match="got proxies .'curvature'.; the score needs exactly"):
        score_proxies({"curvature": np.ones((3, 2))})
    with pytest.raises(ConfigError, match="pass the same"):
        score_proxies({**values(), "curvature": np.ones((3, 2))})
