"""Rows of one document are worth fewer independent ones: known answers of the design effect."""

import numpy as np
import pytest

from dihal_core.errors import ConfigError
from dihal_core.geometry import design_effect
from dihal_core.geometry.design_effect import effective_rows
from dihal_core.geometry.diagnostics import effective_number


def clustered(rng, sizes, width, share):
    """Rows whose variance lies for `share` between documents."""
    document_N = np.repeat(np.arange(len(sizes)), sizes)
    common_ND = rng.standard_normal((len(sizes), width))[document_N]
    return np.sqrt(share) * common_ND + np.sqrt(1 - share) * rng.standard_normal((len(document_N), width)), document_N


def test_independent_rows_are_worth_their_own_number():
    x_ND, document_N = clustered(np.random.default_rng(0), np.full(200, 6), 64, 0.0)
    found = effective_rows(x_ND, document_N)
    assert 0.0 <= found.correlation < 0.01
    assert 0.95 * 1200 < found.rows <= 1200


def test_identical_rows_within_documents_are_worth_the_effective_number_of_documents():
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 9, 60)
    found = effective_rows(np.repeat(rng.standard_normal((60, 7)), sizes, axis=0), np.repeat(np.arange(60), sizes))
    assert found.correlation == pytest.approx(1.0, abs=1e-12)
    assert found.rows == pytest.approx(effective_number(sizes), rel=1e-12)


def test_a_balanced_design_gives_the_analysis_of_variance_by_hand():
    """Documents (0, 2), (4, 6), (5, 13): means 1, 5, 9; MSB = 2 * 32 / 2 = 32, MSW = (2 + 2 + 32) / 3 = 12."""
    x_ND = np.array([[0.0], [2.0], [4.0], [6.0], [5.0], [13.0]])
    found = effective_rows(x_ND, np.array([7, 7, 3, 3, 9, 9]))
    assert found.correlation == pytest.approx((32 - 12) / (32 + 12))
    assert found.rows == pytest.approx(6 / (1 + 20 / 44))


@pytest.mark.parametrize("sizes", [np.full(150, 4), np.r_[np.full(100, 2), np.full(20, 15)]])
def test_the_correlation_that_was_put_in_is_found(sizes):
    x_ND, document_N = clustered(np.random.default_rng(2), sizes, 200, 0.3)
    found = effective_rows(x_ND, document_N)
    assert found.correlation == pytest.approx(0.3, abs=0.02)
    kish = (sizes**2).sum() / sizes.sum()
    assert found.rows == pytest.approx(len(x_ND) / (1 + (kish - 1) * found.correlation))


def test_the_variance_of_a_mean_is_that_of_so_many_independent_rows():
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 12, 80)
    x_ND, document_N = clustered(rng, sizes, 5000, 0.4)
    assert 1.0 / x_ND.mean(axis=0).var() == pytest.approx(effective_rows(x_ND, document_N).rows, rel=0.06)


def test_order_offset_and_the_scale_of_dimensions_change_nothing():
    rng = np.random.default_rng(4)
    x_ND, document_N = clustered(rng, rng.integers(1, 8, 40), 9, 0.5)
    plain = effective_rows(x_ND, document_N)
    order_N = rng.permutation(len(x_ND))
    moved_ND = (x_ND * np.geomspace(1e-3, 1e4, 9) + np.linspace(-1e5, 1e5, 9))[order_N]
    found = effective_rows(moved_ND, document_N[order_N] + 1000)
    assert found.correlation == pytest.approx(plain.correlation, rel=1e-6)
    assert found.rows == pytest.approx(plain.rows, rel=1e-6)


def test_one_huge_dimension_counts_as_one_of_many():
    rng = np.random.default_rng(5)
    x_ND, document_N = clustered(rng, np.full(100, 5), 50, 0.0)
    x_ND[:, 3] = 1e6 * rng.standard_normal(100)[document_N]
    assert effective_rows(x_ND, document_N).correlation < 0.05


def test_chunks_do_not_show(monkeypatch):
    rng = np.random.default_rng(6)
    x_ND, document_N = clustered(rng, np.r_[rng.integers(1, 9, 30), 200, 1], 11, 0.4)
    document_N = rng.permutation(32)[document_N]
    whole = effective_rows(x_ND, document_N)
    for values in (1, 40, 700):
        monkeypatch.setattr(design_effect, "CHUNK_VALUES", values)
        assert effective_rows(x_ND, document_N).rows == pytest.approx(whole.rows, rel=1e-12)


def test_what_cannot_be_known_is_none_and_a_constant_column_is_left_out():
    rng = np.random.default_rng(7)
    x_ND, document_N = clustered(rng, np.full(20, 3), 4, 0.5)
    assert effective_rows(x_ND, np.zeros(60, dtype=int)) == design_effect.EffectiveRows(None, None)
    assert effective_rows(x_ND, np.arange(60)) == design_effect.EffectiveRows(None, 60.0)
    assert effective_rows(np.full((60, 4), 0.1, dtype=np.float32), document_N).rows is None
    with_constant_ND = np.column_stack([x_ND, np.full(60, 1e8 / 3)])
    assert effective_rows(with_constant_ND, document_N).rows == pytest.approx(effective_rows(x_ND, document_N).rows)
    with pytest.raises(ConfigError, match="pass one label per row"):
        effective_rows(x_ND, document_N[1:])
