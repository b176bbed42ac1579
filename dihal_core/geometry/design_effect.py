"""How many independent rows the rows of one layer are worth (ours: the paper does not state it).

Token states of one document resemble each other. With intra-document correlation rho, an average over n rows in
documents of m rows varies as one over n / (1 + (m - 1) rho) independent rows: Kish's design effect (Kish 1965,
Survey Sampling, chapter 5), with m = sum m_c^2 / sum m_c where documents differ in length. rho comes from the one-way
analysis of variance by document in hidden-state space. Every dimension is divided by its own standard deviation first,
so that a dimension with massive activations counts as one of D and not as most of the trace.

The number holds for averages of single dimensions. The proxies are other functions of the rows: their own
uncertainty is in the intervals from resampled documents.

Letters: N rows, D columns, C documents.
"""

import dataclasses

import numpy as np

from dihal_core.errors import ConfigError

CHUNK_VALUES = 1 << 19
"""Values widened to float64 at a time: 4 MB, so that a chunk stays in the cache over its few passes."""
ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class EffectiveRows:
    """What the rows of one layer are worth; None where one document, or no variance, leaves it unknown."""

    correlation: float | None
    """Intra-document correlation, 0 to 1; None also where every document has one row only."""
    rows: float | None
    """Effective number of independent rows, between Kish's effective number of documents and N."""


def effective_rows(x_ND: np.ndarray, document_N: np.ndarray) -> EffectiveRows:
    """Return the intra-document correlation of rows and their effective number.

    Unchanged by an offset common to all rows and by the scale of single dimensions, not by rotations. O(N D).

    Parameters
    ----------
    x_ND : ndarray of shape (N, D)
        Finite rows of one layer, in any order.
    document_N : ndarray of int, shape (N,)
        Document of each row.

    Raises
    ------
    ConfigError
        If rows and documents differ in number, or there are none.
    """
    if x_ND.ndim != 2 or len(x_ND) != len(document_N) or x_ND.size == 0:
        raise ConfigError(
            f"got rows of shape {x_ND.shape} and {len(document_N)} document labels; pass one label per row, shape (N,)"
        )
    _, document_N, size_C = np.unique(document_N, return_inverse=True, return_counts=True)
    total, count = len(x_ND), len(size_C)
    if count == total:
        return EffectiveRows(None, float(total))
    if count == 1:
        return EffectiveRows(None, None)
    between_D, total_D, varies_D = _sums_of_squares(x_ND, document_N.reshape(-1), size_C)
    if not varies_D.any():
        return EffectiveRows(None, None)
    share_D = between_D[varies_D] / total_D[varies_D]
    between = float(share_D.sum()) / (count - 1)
    within = float(np.maximum(1.0 - share_D, 0.0).sum()) / (total - count)
    square = float((size_C.astype(np.float64) ** 2).sum()) / total
    usual = (total - square) / (count - 1)  # n_0, the size of a document in the expectation of `between`
    correlation = 0.0
    if between > within:
        correlation = min((between - within) / (between + (usual - 1.0) * within), 1.0)
    return EffectiveRows(correlation, total / (1.0 + (square - 1.0) * correlation))


def _sums_of_squares(
    x_ND: np.ndarray, document_N: np.ndarray, size_C: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return per column the sum of squares between documents, the total one, and whether it exceeds rounding."""
    total, width = x_ND.shape
    mean_D = x_ND.mean(axis=0, dtype=np.float64)
    order_N = np.argsort(document_N, kind="stable")
    between_D, total_D, largest_D = np.zeros(width), np.zeros(width), np.zeros(width)
    open_document, open_sum_D = -1, np.zeros(width)
    step = max(1, CHUNK_VALUES // width)
    for first in range(0, total, step):
        rows_n = order_N[first : first + step]
        label_n = document_N[rows_n]
        block_nD = x_ND[rows_n].astype(np.float64)
        np.maximum(largest_D, np.abs(block_nD).max(axis=0), out=largest_D)
        block_nD -= mean_D
        total_D += np.einsum("nd,nd->d", block_nD, block_nD)
        starts_c = np.flatnonzero(np.diff(label_n, prepend=-1))
        sum_cD = np.add.reduceat(block_nD, starts_c, axis=0)
        if label_n[0] == open_document:
            sum_cD[0] += open_sum_D
        elif open_document >= 0:
            between_D += open_sum_D**2 / size_C[open_document]
        closed_c = label_n[starts_c[:-1]]
        between_D += ((sum_cD[:-1] ** 2) / size_C[closed_c][:, None]).sum(axis=0)
        open_document, open_sum_D = int(label_n[-1]), sum_cD[-1]
    between_D += open_sum_D**2 / size_C[open_document]
    return between_D, total_D, np.sqrt(total_D / total) > ROUNDING * largest_D
