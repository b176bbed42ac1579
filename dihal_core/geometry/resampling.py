"""How much the three proxies would move with another set of documents (ours; the paper gives no intervals).

Rows of one document are not independent, and overlapping subsamples of one pool say nothing about
other documents. Documents are therefore resampled: each replicate keeps a random half of them, without
replacement. The spread of a statistic over random halves equals its sampling spread over documents, as
for the bootstrap; but no row occurs twice, and duplicated rows would be one another's neighbours.
The same halves are used for all layers, so that differences between layers keep their correlation.

Per replicate:

- curvature: neighbours are searched anew among the kept rows (of up to 4000 rows); the local leading
  variance is the Rayleigh quotient of `bound_top_eigenvalues` (other curvature forms: the exact trace).
- monotonicity: median of the pair ratios over pairs of kept rows with the covariance of the whole pool,
  divided by the first-order change of the mean numerator, tr(A Sigma_b) / tr(A Sigma) with
  A = P Sigma P; without it a common rescaling of all kept rows would go unnoticed.
- effective rank: exact trace over the Rayleigh-Ritz leading variance in the pool's 16 leading directions.

Relative fluctuations about the replicates' geometric mean are handed on and applied to the protocol's mean: halves have
fewer rows, so their own mean is not that of the protocol, and only their spread is of use. The replicates of a proxy
therefore spread about its value, and no bias is left in them to be told.

Letters: N rows, D columns, C documents, B replicates, M pairs, R directions.
"""

from collections.abc import Callable

import numpy as np

from dihal_core.geometry.neighbourhoods import (
    FORMS,
    list_depth,
    nearest_in_subsample,
)
from dihal_core.geometry.pool import GramPool

MIN_DOCUMENTS = 8
"""Fewer documents give no interval: halves of them are too few to differ."""
MAX_CURVATURE_ROWS = 4000
DIRECTIONS = 16


def draw_halves(rows_C: np.ndarray, min_rows: int, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Return which documents each replicate keeps, bool (B, C).

    Parameters
    ----------
    rows_C : ndarray of int, shape (C,)
        Rows of each document.
    min_rows : int
        Halves with fewer rows (or an eighth of all) are drawn again: few long documents can hold most rows.

    Returns
    -------
    ndarray
        Without replicates where there are fewer than 8 documents, or no half holds enough rows.
    """
    num_documents = len(rows_C)
    empty_BC = np.zeros((0, num_documents), dtype=bool)
    if num_documents < MIN_DOCUMENTS:
        return empty_BC
    enough = max(min_rows, int(rows_C.sum()) // 8)
    kept_BC = np.zeros((replicates, num_documents), dtype=bool)
    attempts, replicate = 0, 0
    while replicate < replicates:
        chosen_c = rng.permutation(num_documents)[: num_documents // 2]
        attempts += 1
        if rows_C[chosen_c].sum() >= enough:
            kept_BC[replicate, chosen_c] = True
            replicate += 1
        elif attempts > 20 * replicates:
            return empty_BC
    return kept_BC


def document_fluctuations(
    pool: GramPool,
    document_N: np.ndarray,
    pairs_M2: np.ndarray,
    kept_BC: np.ndarray,
    eps: float,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the relative fluctuation of (curvature, monotonicity, effective rank), (B, 3), geometric mean 1.

    Parameters
    ----------
    pool : GramPool
        Rows of one layer.
    document_N : ndarray of int, shape (N,)
        Document of each row as a number in 0..C-1.
    pairs_M2 : ndarray of int, shape (M, 2)
        Row pairs, many: about a quarter of them survives in each half. Pairs of identical rows are dropped.
    kept_BC : ndarray of bool
        From `draw_halves`.
    eps : float
        Ridge of the headline score in units of the rows as stored; a relative one is that of the whole pool.
    """
    if len(kept_BC) == 0:
        return np.zeros((0, 3))
    pairs_M2 = pairs_M2[pool.twin_N[pairs_M2[:, 0]] != pool.twin_N[pairs_M2[:, 1]]]
    local_B = _local_variance(pool, document_N, kept_BC, progress)
    stiffness_B, rank_B, trace_B = _global_statistics(pool, document_N, pairs_M2, kept_BC, eps)
    log_B3 = np.log(np.stack([1.0 / (local_B + eps), stiffness_B, rank_B], axis=1))
    if pool.settings.scaling == "unit_trace":
        log_B3[:, :2] += np.log(trace_B)[:, None]
    kept = int(kept_BC[0].sum())
    width = np.sqrt(kept / (kept_BC.shape[1] - kept))  # 1 for an even number of documents
    return np.exp(width * (log_B3 - log_B3.mean(axis=0)))


def _local_variance(
    pool: GramPool, document_N: np.ndarray, kept_BC: np.ndarray, progress: Callable[[int, int], None] | None
) -> np.ndarray:
    total = len(document_N)
    depth = list_depth(total, max(total // 2, pool.k + 2), pool.k) or min(4 * pool.k + 20, total - 1)
    lists_NK = pool.lists_NK
    if lists_NK is None or lists_NK.shape[1] < depth:
        lists_NK = pool.algebra.nearest(pool.search_NN, depth)
    lists_NK = np.ascontiguousarray(lists_NK[:, :depth])
    probe_N = np.zeros(total, dtype=bool)
    probe_N[np.linspace(0, total - 1, min(total, MAX_CURVATURE_ROWS)).astype(int)] = True
    median_B = np.empty(len(kept_BC))
    for replicate, kept_C in enumerate(kept_BC):
        inside_N = kept_C[document_N]
        rows_n, asked_n = np.flatnonzero(inside_N), np.flatnonzero(inside_N & probe_N)
        neighbours_nk = nearest_in_subsample(lists_NK, rows_n, pool.k, pool.search_NN, asked_n)
        local_nmm, divisor = pool.neighbourhoods(asked_n, neighbours_nk)
        median_B[replicate] = np.median(FORMS[pool.settings.curvature_form].each(local_nmm)) / divisor
        if progress is not None:
            progress(replicate + 1, len(kept_BC))
    return median_B


def _global_statistics(
    pool: GramPool, document_N: np.ndarray, pairs_M2: np.ndarray, kept_BC: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stiffness, effective rank and trace of every replicate."""
    values_R, coordinate_NR = _principal_coordinates(pool)
    ratio_M = _pair_ratios(pool, coordinate_NR, values_R, pairs_M2, eps)
    weight_BC = kept_BC.astype(np.float64)
    num_documents = kept_BC.shape[1]
    rows_C = np.bincount(document_N, minlength=num_documents).astype(np.float64)
    order_N = np.argsort(document_N, kind="stable")
    starts_C = np.concatenate([[0], np.cumsum(rows_C[:-1])]).astype(int)
    sum_CR = np.add.reduceat(coordinate_NR[order_N], starts_C, axis=0)
    square_CR = np.add.reduceat(coordinate_NR[order_N] ** 2, starts_C, axis=0)
    rows_B = weight_BC @ rows_C
    unbiased_B = rows_B / (rows_B - 1.0)
    mean_BR = (weight_BC @ sum_CR) / rows_B[:, None]
    variance_BR = ((weight_BC @ square_CR) / rows_B[:, None] - mean_BR**2) * unbiased_B[:, None]

    response_R = values_R / (values_R + eps) ** 2  # spectrum of A = P Sigma P
    change_B = (variance_BR @ response_R) / (values_R @ response_R)
    kept_BN = kept_BC[:, document_N]
    stiffness_B = np.array([np.median(ratio_M[kept_N[pairs_M2[:, 0]] & kept_N[pairs_M2[:, 1]]]) for kept_N in kept_BN])

    top = min(DIRECTIONS, len(values_R))
    leading_NT = coordinate_NR[:, -top:]
    outer_CTT = np.add.reduceat((leading_NT[:, :, None] * leading_NT[:, None, :])[order_N], starts_C, axis=0)
    outer_BTT = np.tensordot(weight_BC, outer_CTT, axes=1) / rows_B[:, None, None]
    mean_BT = mean_BR[:, -top:]
    covariance_BTT = (outer_BTT - mean_BT[:, :, None] * mean_BT[:, None, :]) * unbiased_B[:, None, None]
    trace_B = variance_BR.sum(axis=1)
    return stiffness_B / change_B, trace_B / np.linalg.eigvalsh(covariance_BTT)[:, -1], trace_B


def _principal_coordinates(pool: GramPool) -> tuple[np.ndarray, np.ndarray]:
    """Variances (ascending) and coordinates of the rows along the principal directions with variance."""
    n, d = pool.centred_ND.shape
    if n > d:
        values_R, vectors_DR = pool.algebra.eigh(pool.algebra.product(pool.centred_ND.T, pool.centred_ND) / (n - 1))
        coordinate_NR = pool.algebra.product(pool.centred_ND, vectors_DR)
    else:
        values_R, vectors_NR = pool.algebra.eigh(pool.gram_NN / (n - 1))
        coordinate_NR = vectors_NR * np.sqrt(np.maximum(values_R, 0.0) * (n - 1))
    real_R = values_R > 16 * np.finfo(float).eps * values_R[-1]
    return values_R[real_R], np.ascontiguousarray(coordinate_NR[:, real_R])


def _pair_ratios(
    pool: GramPool, coordinate_NR: np.ndarray, values_R: np.ndarray, pairs_M2: np.ndarray, eps: float
) -> np.ndarray:
    """Pair ratios under the covariance of the whole pool."""
    ratio_M = np.empty(len(pairs_M2))
    weight_R = 1.0 / (values_R + eps)
    for first in range(0, len(pairs_M2), 2048):
        block_M2 = pairs_M2[first : first + 2048]
        square_MR = np.take(coordinate_NR, block_M2[:, 0], axis=0, mode="clip")
        square_MR -= np.take(coordinate_NR, block_M2[:, 1], axis=0, mode="clip")
        square_MR *= square_MR
        ratio_M[first : first + 2048] = (square_MR @ weight_R) / square_MR.sum(axis=1)
    return ratio_M
