"""Nearest neighbours and local covariance spectra from Gram entries.

The covariance of k + 1 rows has the same nonzero eigenvalues as their centred Gram matrix divided by
k (ddof 1), so an 11 x 11 problem replaces a D x D one and no rows are gathered.

Letters: N rows, D columns, K stored neighbours, k neighbours of the setting, m = k + 1 rows of a neighbourhood.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

CANCELLATION = 1e-4
"""A neighbourhood whose Gram entries cancel to less than this share is recomputed from rows."""
BLOCK_ROWS = 256


def nearest(gram_NN: np.ndarray, depth: int, queries_Q: np.ndarray | None = None) -> np.ndarray:
    """Return the `depth` nearest other rows (Euclidean) of each query row, nearest first, shape (Q, depth), int32.

    Parameters
    ----------
    gram_NN : ndarray of shape (N, N), float64
        Inner products of centred rows.
    queries_Q : ndarray of int, optional
        Rows to answer for; all by default.
    """
    total = len(gram_NN)
    queries_Q = np.arange(total) if queries_Q is None else queries_Q
    norms_N = np.ascontiguousarray(np.diagonal(gram_NN))
    found_QK = np.empty((len(queries_Q), depth), dtype=np.int32)
    scratch_BN = np.empty((min(BLOCK_ROWS, len(queries_Q)), total))
    for first in range(0, len(queries_Q), BLOCK_ROWS):
        block_B = queries_Q[first : first + BLOCK_ROWS]
        # |x_i|^2 is the same along a row and changes no order.
        distance_BN = np.take(gram_NN, block_B, axis=0, out=scratch_BN[: len(block_B)], mode="clip")
        distance_BN *= -2.0
        distance_BN += norms_N
        distance_BN[np.arange(len(block_B)), block_B] = np.inf
        found_BK = np.argpartition(distance_BN, depth - 1, axis=1)[:, :depth]
        order_BK = np.argsort(np.take_along_axis(distance_BN, found_BK, axis=1), axis=1, kind="stable")
        found_QK[first : first + len(block_B)] = np.take_along_axis(found_BK, order_BK, axis=1)
    return found_QK


def list_depth(pool_rows: int, sample_rows: int, k: int) -> int | None:
    """Return how many pool neighbours to store so that nearly all rows find k of them in a subsample.

    A subsample holds each neighbour with probability p = n / N; the depth puts the k-th one four
    standard deviations below the mean. None where lists would be as long as the subsample: a direct
    search is cheaper then.
    """
    if sample_rows > pool_rows:
        return None
    share = (sample_rows - 1) / (pool_rows - 1)
    depth = k
    while depth * share - 4.0 * np.sqrt(depth * share * (1.0 - share)) < k and depth < pool_rows - 1:
        depth += 1
    return depth if depth <= sample_rows // 4 else None


def nearest_in_subsample(
    lists_NK: np.ndarray, rows_n: np.ndarray, k: int, pool_gram_NN: np.ndarray, asked_q: np.ndarray | None = None
) -> np.ndarray:
    """Return the k nearest other subsample rows of each subsample row, as pool indices, shape (n, k).

    The stored lists are filtered by membership; a row whose list runs out is searched directly, so the
    result equals a search within the subsample. `asked_q` limits the answer to some of the rows.
    """
    asked_q = rows_n if asked_q is None else asked_q
    member_N = np.zeros(len(lists_NK), dtype=bool)
    member_N[rows_n] = True
    listed_qK = np.take(lists_NK, asked_q, axis=0, mode="clip")
    inside_qK = np.take(member_N, listed_qK, mode="clip")
    rank_qK = np.cumsum(inside_qK, axis=1, dtype=np.int16)
    complete_q = rank_qK[:, -1] >= k
    found_qk = np.empty((len(asked_q), k), dtype=np.int32)
    wanted_qK = inside_qK & (rank_qK <= k) & complete_q[:, None]
    found_qk[complete_q] = listed_qK[wanted_qK].reshape(-1, k)
    for position in np.flatnonzero(~complete_q):
        row = asked_q[position]
        others_n = rows_n[rows_n != row]
        distance_n = pool_gram_NN[others_n, others_n] - 2.0 * pool_gram_NN[row, others_n]
        closest_k = np.argpartition(distance_n, k - 1)[:k]
        found_qk[position] = others_n[closest_k[np.argsort(distance_n[closest_k], kind="stable")]]
    return found_qk


def local_grams(gram_NN: np.ndarray, centred_ND: np.ndarray, twin_N: np.ndarray, members_nm: np.ndarray) -> np.ndarray:
    """Return the centred Gram matrix (n, m, m) of every neighbourhood, from Gram entries.

    Neighbourhoods of identical rows are exactly zero. Where entries cancel (a neighbourhood tiny
    against its distance from the centre) the rows themselves are used.
    """
    total = len(gram_NN)
    flat_nmm = members_nm[:, :, None].astype(np.int64) * total + members_nm[:, None, :]
    local_nmm = np.take(gram_NN.reshape(-1), flat_nmm, mode="clip")
    size_n = np.einsum("nii->n", local_nmm)
    local_nmm = _centre(local_nmm)
    spread_n = np.einsum("nii->n", local_nmm)
    twins_nm = np.take(twin_N, members_nm, mode="clip")
    same_n = (twins_nm == twins_nm[:, :1]).all(axis=1)
    local_nmm[same_n] = 0.0
    unsafe_n = np.flatnonzero((spread_n < CANCELLATION * size_n) & ~same_n)
    for first in range(0, len(unsafe_n), BLOCK_ROWS):
        block_B = unsafe_n[first : first + BLOCK_ROWS]
        rows_BmD = np.take(centred_ND, members_nm[block_B], axis=0, mode="clip")
        rows_BmD -= rows_BmD.mean(axis=1, keepdims=True)
        local_nmm[block_B] = rows_BmD @ rows_BmD.transpose(0, 2, 1)
    return local_nmm


def _centre(local_nmm: np.ndarray) -> np.ndarray:
    row_nm = local_nmm.mean(axis=2)
    local_nmm -= row_nm[:, :, None]
    local_nmm -= row_nm[:, None, :]
    local_nmm += row_nm.mean(axis=1)[:, None, None]
    return local_nmm


def _unit_trace(local_nmm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    trace_n = np.einsum("nii->n", local_nmm)
    scale_n = np.where(trace_n > 0, trace_n, 1.0)
    return local_nmm / scale_n[:, None, None], scale_n


def top_eigenvalues(local_nmm: np.ndarray) -> np.ndarray:
    """Return the largest eigenvalue of every matrix, exactly; scaled to unit trace for the solver's sake."""
    unit_nmm, scale_n = _unit_trace(local_nmm)
    return np.maximum(np.linalg.eigvalsh(unit_nmm)[:, -1], 0.0) * scale_n


def bound_top_eigenvalues(local_nmm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds of every matrix's largest eigenvalue, without an eigensolver.

    For a positive semidefinite B of unit trace a Rayleigh quotient (here of the longest column of B^8)
    is at most lambda_max, and lambda_max is at most (tr B^16)^(1/16). The lower one is mostly within 0.1 %.
    """
    unit_nmm, scale_n = _unit_trace(local_nmm)
    power8_nmm = unit_nmm @ unit_nmm
    power8_nmm = power8_nmm @ power8_nmm
    power8_nmm = power8_nmm @ power8_nmm
    upper_n = np.einsum("nij,nij->n", power8_nmm, power8_nmm) ** (1 / 16)
    longest_n = np.einsum("nii->ni", power8_nmm).argmax(axis=1)
    vector_nm = np.take_along_axis(power8_nmm, longest_n[:, None, None], axis=1)[:, 0, :]
    image_nm = (unit_nmm @ vector_nm[:, :, None])[:, :, 0]
    square_n = np.einsum("ni,ni->n", vector_nm, vector_nm)
    lower_n = np.einsum("ni,ni->n", vector_nm, image_nm) / np.where(square_n > 0, square_n, 1.0)
    rounding = 1e-12
    return lower_n * scale_n * (1 - rounding), upper_n * scale_n * (1 + rounding)


def middle_top_eigenvalues(local_nmm: np.ndarray) -> tuple[float, float]:
    """Return the two middle order statistics of the matrices' largest eigenvalues (equal for odd n).

    The bounds settle which matrices can be in the middle; only those are diagonalised.
    """
    n = len(local_nmm)
    first, second = (n - 1) // 2, n // 2
    lower_n, upper_n = bound_top_eigenvalues(local_nmm)
    least = np.partition(lower_n, first)[first]
    most = np.partition(upper_n, second)[second]
    below = int((upper_n < least).sum())
    open_n = (upper_n >= least) & (lower_n <= most)
    exact_n = np.sort(top_eigenvalues(local_nmm[open_n]))
    return float(exact_n[first - below]), float(exact_n[second - below])


def traces(local_nmm: np.ndarray) -> np.ndarray:
    """Return the trace of every matrix, shape (n,)."""
    return np.einsum("nii->n", local_nmm)


def middle_traces(local_nmm: np.ndarray) -> tuple[float, float]:
    """Return the two middle order statistics of the matrices' traces (equal for odd n)."""
    n = len(local_nmm)
    middle = np.partition(traces(local_nmm), [(n - 1) // 2, n // 2])
    return float(middle[(n - 1) // 2]), float(middle[n // 2])


@dataclasses.dataclass(frozen=True)
class LocalForm:
    """What of a neighbourhood's covariance C its curvature 1 / (spread + eps) is read from."""

    middle: Callable[[np.ndarray], tuple[float, float]]
    """Centred Gram matrices (n, m, m) -> the two middle order statistics, exact."""
    each: Callable[[np.ndarray], np.ndarray]
    """Centred Gram matrices -> one value each; cheap, for resampling."""
    over_k: bool
    """The spread is divided by k."""


FORMS: dict[str, LocalForm] = {
    "inverse_top": LocalForm(middle_top_eigenvalues, lambda local_nmm: bound_top_eigenvalues(local_nmm)[0], False),
    "inverse_trace": LocalForm(middle_traces, traces, False),
    "k_over_trace": LocalForm(middle_traces, traces, True),
}
