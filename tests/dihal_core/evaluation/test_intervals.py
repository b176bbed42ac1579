"""Document bootstrap: closed forms, pairing, coverage."""

import math

import numpy as np
import pytest

from dihal_core.errors import ConfigError
from dihal_core.evaluation.intervals import DocumentBootstrap, bits, perplexity, sum_by_document
from dihal_core.seeding import stream


def bootstrap(documents: int, replicates: int = 2000, confidence: float = 0.95, seed: int = 0) -> DocumentBootstrap:
    return DocumentBootstrap(documents, replicates, confidence, stream(seed, "test"))


def test_the_value_is_a_ratio_of_sums_and_not_a_mean_of_ratios():
    interval = bootstrap(2).ratio(np.array([1.0, 30.0]), np.array([1.0, 10.0]))
    assert interval["value"] == pytest.approx(31 / 11)


def test_two_documents_give_the_three_possible_ratios_with_binomial_weights():
    boot = bootstrap(2, replicates=4000)
    ratio_R = boot.sums(np.array([1.0, 30.0])) / boot.sums(np.array([1.0, 10.0]))
    values, counts = np.unique(ratio_R.round(12), return_counts=True)
    assert values.tolist() == pytest.approx([1.0, 31 / 11, 3.0])
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_equal_documents_have_an_interval_of_no_width():
    interval = bootstrap(5).ratio(np.full(5, 3.0), np.full(5, 2.0))
    assert interval["low"] == interval["value"] == interval["high"] == pytest.approx(1.5)


def test_a_difference_is_paired_and_ignores_what_both_share():
    noise_G = stream(1, "shared").normal(0, 100.0, 40)
    boot, count_G = bootstrap(40), np.full(40, 10.0)
    paired = boot.difference(noise_G + 5.0, noise_G, count_G)
    assert paired["low"] == pytest.approx(0.5)
    assert paired["high"] == pytest.approx(0.5)
    assert boot.ratio(noise_G, count_G)["high"] - boot.ratio(noise_G, count_G)["low"] > 1.0


def test_transforms_apply_to_value_and_bounds_alike():
    sums_G, count_G = np.array([2.0, 4.0, 9.0]), np.array([1.0, 2.0, 3.0])
    plain, raised = bootstrap(3).ratio(sums_G, count_G), bootstrap(3).ratio(sums_G, count_G, perplexity)
    assert raised["value"] == pytest.approx(math.exp(plain["value"]))
    assert raised["low"] == pytest.approx(math.exp(plain["low"]))
    assert bits(np.array(math.log(8.0))) == pytest.approx(3.0)
    assert bootstrap(3).ratio(sums_G * 1e4, count_G, perplexity)["value"] is None


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    hits = 0
    for trial in range(200):
        draw_G = stream(trial, "coverage").normal(1.0, 1.0, 60)
        interval = bootstrap(60, replicates=300, confidence=0.9, seed=trial).ratio(draw_G, np.ones(60))
        hits += interval["low"] <= 1.0 <= interval["high"]
    assert 0.82 <= hits / 200 <= 0.96


def test_the_same_stream_gives_the_same_interval_and_blocks_do_not_matter(monkeypatch):
    value_G, count_G = np.arange(7.0), np.ones(7)
    first = bootstrap(7).ratio(value_G, count_G)
    assert bootstrap(7).ratio(value_G, count_G) == first
    monkeypatch.setattr("dihal_core.evaluation.intervals.BLOCK_ENTRIES", 70)
    assert bootstrap(7).ratio(value_G, count_G) == first


def test_one_document_or_no_replicates_give_a_value_without_bounds():
    for boot in (bootstrap(1), bootstrap(4, replicates=0)):
        interval = boot.ratio(np.ones(boot.documents), np.ones(boot.documents))
        assert interval == {"value": 1.0, "low": None, "high": None}
    with pytest.raises(ConfigError, match="nothing to resample"):
        bootstrap(0)


def test_sums_by_document_add_windows_and_positions():
    value_BT = np.arange(12.0).reshape(4, 3)
    assert sum_by_document(value_BT, np.array([1, 0, 1, 3]), 4).tolist() == [12.0, 24.0, 0.0, 30.0]
