"""Resampled documents move the proxies as much as new documents do."""

import numpy as np
import pytest

from dihal_core.config import GeometrySettings, ProxySettings
from dihal_core.geometry.draws import distinct_pairs
from dihal_core.geometry.pool import GramPool
from dihal_core.geometry.proxies import measure_sample
from dihal_core.geometry.resampling import document_fluctuations, draw_halves

SETTINGS = GeometrySettings(k=6, num_pairs=800)
DOCUMENTS, PER_DOCUMENT, WIDTH = 120, 4, 16


def fresh_rows(rng, scales: bool):
    """Rows of new documents: each has a mean, and, if asked for, a scale of its own."""
    deviation = 3.0 * np.exp(-np.arange(WIDTH) / 6.0) + 0.2
    document_N = np.repeat(np.arange(DOCUMENTS), PER_DOCUMENT)
    scale_N = np.exp(0.5 * rng.standard_normal(DOCUMENTS))[document_N] if scales else np.ones(len(document_N))
    noise_ND = rng.standard_normal((len(document_N), WIDTH)) * scale_N[:, None]
    return (0.7 * rng.standard_normal((DOCUMENTS, WIDTH))[document_N] + 0.7 * noise_ND) * deviation, document_N


def protocol_mean(x_ND, rng):
    pool = GramPool(x_ND, SETTINGS, 200)
    rows = [
        measure_sample(pool.sample(distinct_pairs(200, 800, rng), rng.permutation(len(x_ND))[:200]), SETTINGS)
        for _ in range(4)
    ]
    return np.mean([[row.curvature, row.monotonicity, row.effective_rank] for row in rows], axis=0)


@pytest.mark.parametrize("scales", [False, True])
def test_the_spread_over_halves_is_the_spread_over_new_documents(scales):
    rng = np.random.default_rng(11)
    truth, estimated = [], []
    for repetition in range(80):
        x_ND, document_N = fresh_rows(rng, scales)
        truth.append(protocol_mean(x_ND, rng))
        if repetition % 20 == 0:
            halves_BC = draw_halves(np.bincount(document_N), 8, 120, rng)
            pairs_M2 = distinct_pairs(len(x_ND), 6000, rng)
            found_B3 = document_fluctuations(GramPool(x_ND, SETTINGS, 200), document_N, pairs_M2, halves_BC, 1e-6)
            assert np.log(found_B3).mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-12)
            estimated.append(found_B3.std(axis=0))
    true_3 = np.std(truth, axis=0) / np.mean(truth, axis=0)
    # 80 draws give a standard deviation to about 8 %, its estimate varies as much again.
    assert np.mean(estimated, axis=0) == pytest.approx(true_3, rel=0.35)


def test_rows_of_one_document_count_as_one():
    """Copies of a row in one document leave the spread as it is; as documents of their own they would shrink it."""
    rng = np.random.default_rng(12)
    base_ND = rng.standard_normal((100, 8)) * rng.lognormal(size=(100, 1))
    x_ND = np.repeat(base_ND, 4, axis=0) + 1e-3 * rng.standard_normal((400, 8))
    pairs_M2 = distinct_pairs(400, 4000, rng)
    clustered_N, alone_N = np.repeat(np.arange(100), 4), np.arange(400)
    spread = [
        document_fluctuations(
            GramPool(x_ND, ProxySettings(k=6)),
            document_N,
            pairs_M2,
            draw_halves(np.bincount(document_N), 8, 150, rng),
            1e-6,
        ).std(axis=0)
        for document_N in (clustered_N, alone_N)
    ]
    assert (spread[0][1:] > 1.5 * spread[1][1:]).all()


def test_halves_keep_half_of_the_documents_and_enough_rows():
    rows_C = np.array([500, 3, 3, 3, 3, 3, 3, 3, 3])
    kept_BC = draw_halves(rows_C, 12, 50, np.random.default_rng(0))
    assert kept_BC.shape == (50, 9)
    assert (kept_BC.sum(axis=1) == 4).all()
    assert ((kept_BC * rows_C).sum(axis=1) >= 524 // 8).all()


def test_too_few_documents_give_no_replicates():
    assert draw_halves(np.full(7, 100), 12, 50, np.random.default_rng(0)).shape == (0, 7)
    x_ND = np.random.default_rng(0).standard_normal((70, 4))
    none_B3 = document_fluctuations(
        GramPool(x_ND, ProxySettings(k=5)), np.arange(70) // 10, np.array([[0, 1]]), np.zeros((0, 7), bool), 1e-6
    )
    assert none_B3.shape == (0, 3)


@pytest.mark.parametrize("width", [6, 200])
def test_fluctuations_do_not_depend_on_scale_or_offset_and_also_exist_for_fewer_rows_than_dimensions(width):
    rng = np.random.default_rng(13)
    x_ND = rng.standard_normal((120, width))
    document_N = np.arange(120) // 4
    halves_BC = draw_halves(np.bincount(document_N), 8, 20, rng)
    pairs_M2 = distinct_pairs(120, 2000, rng)
    plain_B3 = document_fluctuations(GramPool(x_ND, ProxySettings(k=5)), document_N, pairs_M2, halves_BC, 1e-6)
    moved_B3 = document_fluctuations(
        GramPool(100 * x_ND + 7, ProxySettings(k=5)), document_N, pairs_M2, halves_BC, 1e-2
    )
    assert np.isfinite(plain_B3).all()
    assert moved_B3 == pytest.approx(plain_B3, rel=1e-6)
