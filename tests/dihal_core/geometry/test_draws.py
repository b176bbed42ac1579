"""Rows and pairs of the protocol: fresh, distinct, the same whatever the layer."""

import numpy as np
import pytest

from dihal_core.config import GeometrySettings
from dihal_core.errors import ConfigError
from dihal_core.geometry.draws import Draw, distinct_pairs, draw_pairs, draw_rows, groups_of, protocol_draws


def test_the_default_protocol_is_the_papers():
    draws = protocol_draws(GeometrySettings())
    assert [(d.group, d.size) for d in draws] == [("large", 3000)] * 100 + [("small", 500)] * 30


def test_every_subsample_is_a_fresh_draw_without_replacement():
    draws = protocol_draws(GeometrySettings(large_count=3, small_count=3))
    rows = {(d.group, d.index): draw_rows(0, d, 8000) for d in draws}
    assert all(len(np.unique(found)) == len(found) for found in rows.values())
    small, large = rows["small", 0], rows["large", 0]
    assert np.isin(small, large).mean() == pytest.approx(3000 / 8000, abs=0.08)  # not a subset
    assert len({found.tobytes() for found in rows.values()}) == len(rows)


def test_draws_depend_on_seed_group_and_index_only():
    draw = Draw("large", 4, 200)
    assert np.array_equal(draw_rows(1, draw, 900), draw_rows(1, draw, 900))
    assert not np.array_equal(draw_rows(1, draw, 900), draw_rows(2, draw, 900))
    assert not np.array_equal(draw_rows(1, draw, 900), draw_rows(1, Draw("small", 4, 200), 900))
    assert np.array_equal(draw_pairs(1, draw, 50), draw_pairs(1, draw, 50))


def test_all_pairs_can_be_drawn_and_each_once():
    pairs_M2 = distinct_pairs(40, 780, np.random.default_rng(0))
    assert {tuple(pair) for pair in pairs_M2} == {(i, j) for j in range(40) for i in range(j)}


def test_pairs_of_many_rows_are_in_range_and_distinct():
    pairs_M2 = distinct_pairs(300_000, 5000, np.random.default_rng(0))
    assert (pairs_M2[:, 0] < pairs_M2[:, 1]).all()
    assert pairs_M2.min() >= 0
    assert pairs_M2.max() < 300_000
    assert len(np.unique(pairs_M2, axis=0)) == 5000


def test_more_pairs_than_exist_or_more_rows_than_the_pool_are_refused():
    with pytest.raises(ConfigError, match="got 46 pairs of 10 rows; only 45 exist"):
        distinct_pairs(10, 46, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="large_size 500 exceeds the pool of 499 rows"):
        draw_rows(0, Draw("large", 0, 500), 499)
    with pytest.raises(ValueError, match="num_pairs 5000 exceeds the 4950 pairs of small_size 100"):
        GeometrySettings(small_size=100)
    with pytest.raises(ValueError, match="large_size 11 is too small for k = 10"):
        GeometrySettings(large_size=11, small_count=0, num_pairs=5)


def test_commit_groups_cover_all_draws_in_order():
    draws = protocol_draws(GeometrySettings(large_count=23, small_count=12))
    groups = list(groups_of(draws, 10))
    assert [draw for _, group in groups for draw in group] == draws
    assert [name for name, _ in groups] == ["large-0000", "large-0010", "large-0020", "small-0000", "small-0010"]
