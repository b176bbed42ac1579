"""Resampled scores spread about the score, their bias is what it should be, and no interval leaves its value out."""

from functools import partial

import numpy as np
import pytest

from dihal_core.geometry.intervals import bounds_about, interval, score_replicates
from dihal_core.geometry.proxies import PROXIES
from dihal_core.geometry.scoring import score_proxies

SUBSAMPLES = 7


def records(values_L3, replicate_BL3, noise=0.0, rng=None):
    """Tables of subsamples whose means are the given proxies, and the replicates of each layer."""
    tables, replicates = {}, {}
    for position, mean_3 in enumerate(values_L3):
        wobble_S = np.zeros(SUBSAMPLES) if rng is None else noise * rng.standard_normal(SUBSAMPLES)
        spread_S = np.exp(wobble_S) / np.exp(wobble_S).mean()
        tables[position + 1] = {"large": {name: mean * spread_S for name, mean in zip(PROXIES, mean_3, strict=True)}}
        replicates[position + 1] = replicate_BL3[:, position]
    return tables, replicates, sorted(tables)


def resampled(tables, replicates, candidates, **choices):
    combine = partial(score_proxies, **choices)
    headline = combine({name: np.array([tables[layer]["large"][name] for layer in candidates]) for name in PROXIES})
    return headline, score_replicates(tables, replicates, candidates, headline, combine)


def test_intervals_are_percentiles_with_a_standard_error_or_absent():
    assert interval(0.5, np.linspace(0, 1, 101), 0.9) == {
        "value": 0.5,
        "low": pytest.approx(0.05),
        "high": pytest.approx(0.95),
        "se": pytest.approx(np.linspace(0, 1, 101).std(ddof=1)),
    }
    assert interval(0.5, np.zeros(0), 0.9) == {"value": 0.5, "low": None, "high": None, "se": None}


def test_an_interval_whose_percentiles_leave_the_value_out_is_widened_to_it():
    """One replicate of a hundred is far out: the mean of all lies above their 95th percentile."""
    replicate_B = np.r_[np.full(99, -1.0), 99.0]
    assert np.percentile(replicate_B, 95.0) < replicate_B.mean() == 0.0
    assert bounds_about(0.0, replicate_B, 0.9) == (-1.0, 0.0)
    assert bounds_about(0.0, -replicate_B, 0.9) == (0.0, 1.0)


@pytest.mark.parametrize("aggregate", ["mean_of_scores", "score_of_means"])
@pytest.mark.parametrize("transform", ["linear", "log"])
@pytest.mark.parametrize("seed", range(6))
def test_every_interval_of_a_score_contains_it_whatever_the_replicates(seed, transform, aggregate):
    rng = np.random.default_rng(seed)
    layers, count = int(rng.integers(2, 12)), int(rng.integers(2, 60))
    values_L3 = rng.lognormal(sigma=rng.choice([0.01, 1.0, 5.0]), size=(layers, 3))
    skewed_BL3 = np.exp(rng.choice([0.01, 0.5, 3.0]) * rng.standard_normal((count, layers, 3)) ** 3)
    found = records(values_L3, values_L3 * skewed_BL3, noise=0.2, rng=rng)
    headline, replicates = resampled(*found, transform=transform, aggregate=aggregate)
    assert replicates.score_BL.shape == (count, layers)
    assert replicates.score_BL.mean(axis=0) == pytest.approx(headline.score_L, abs=1e-12)
    assert replicates.bias_L.sum() == pytest.approx(0.0, abs=1e-12)
    assert sum(replicates.picked(found[2]).values()) == pytest.approx(1.0)
    for confidence in (0.5, 0.95, 0.999):
        for at in range(layers):
            bounds = interval(headline.score_L[at], replicates.score_BL[:, at], confidence)
            assert bounds["low"] <= bounds["value"] <= bounds["high"]


def test_the_bias_is_the_share_of_resamples_that_swap_two_layers():
    """Two layers have z = +1 and -1. The curvature is swapped in 3 of 10 resamples: its z falls by 2 there."""
    values_L3 = np.array([[2.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    replicate_BL3 = np.tile(values_L3, (10, 1, 1))
    replicate_BL3[:3, :, 0] = [1.0, 2.0]
    headline, replicates = resampled(*records(values_L3, replicate_BL3))
    assert headline.score_L == pytest.approx([1.0, -1.0])
    assert replicates.bias_L == pytest.approx([-0.6, 0.6])
    assert replicates.score_BL[:, 0] == pytest.approx([-0.4] * 3 + [1.6] * 7)
    assert replicates.picked([1, 2]) == {1: 0.7, 2: 0.3}


def test_the_bias_of_small_noise_is_half_its_variance_times_the_second_derivatives():
    """Noise comes with both signs, so that its linear effect on the mean is exactly 0."""
    noise_BL = 0.1 * np.random.default_rng(0).standard_normal((20_000, 6))
    noise_BL = np.concatenate([noise_BL, -noise_BL])
    x_L = np.array([2.0, 3.0, 4.5, 5.0, 6.0, 8.0])
    values_L3 = np.column_stack([x_L, np.ones(6), np.ones(6)])
    replicate_BL3 = np.tile(values_L3, (len(noise_BL), 1, 1))
    replicate_BL3[:, :, 0] += noise_BL
    _, replicates = resampled(*records(values_L3, replicate_BL3))

    def score(moved_L):
        return (moved_L - moved_L.mean()) / moved_L.std()

    step = 1e-3
    second_LL = [score(x_L + step * unit) - 2 * score(x_L) + score(x_L - step * unit) for unit in np.eye(6)]
    expected_L = 0.5 * 0.1**2 * np.sum(second_LL, axis=0) / step**2
    assert np.abs(expected_L).max() > 1e-3
    assert replicates.bias_L == pytest.approx(expected_L, abs=0.05 * np.abs(expected_L).max())
    assert (replicates.bias_L[[0, -1]] * score(x_L)[[0, -1]] < 0).all()  # noise draws the outer scores towards 0


def test_resamples_that_rescale_all_layers_alike_have_no_bias_and_no_spread():
    rng = np.random.default_rng(1)
    values_L3 = rng.lognormal(size=(5, 3))
    headline, replicates = resampled(*records(values_L3, values_L3 * rng.lognormal(size=(20, 1, 3))))
    assert replicates.bias_L == pytest.approx(np.zeros(5), abs=1e-12)
    assert replicates.score_BL == pytest.approx(np.tile(headline.score_L, (20, 1)), abs=1e-12)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_resamples_give_neither_bias_nor_probability(count):
    values_L3 = np.random.default_rng(2).lognormal(size=(4, 3))
    _, replicates = resampled(*records(values_L3, np.tile(values_L3, (count, 1, 1))))
    assert replicates.score_BL.shape == (0, 4)
    assert replicates.bias_L is None
    assert replicates.picked([1, 2, 3, 4]) == dict.fromkeys((1, 2, 3, 4))
