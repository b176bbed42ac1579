"""One Gram matrix for a pool of rows; every subsample of the pool is a gather from it.

Per pool: centred rows, their N x N inner products, identical rows, and nearest-neighbour lists deep
enough that the neighbours within a subsample are found by filtering. Per subsample nothing of size
n x n is multiplied where n > D. A pool whose only "subsample" is itself is how a single array is
measured, so both ways share every formula.

Letters: N pool rows, n subsample rows, D columns, M pairs, K listed neighbours.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from dihal_core.errors import ConfigError, NumericsError
from dihal_core.geometry.blas import symv, syrk_columns
from dihal_core.geometry.neighbourhoods import (
    CANCELLATION,
    list_depth,
    local_grams,
    middle_top_eigenvalues,
    nearest,
    nearest_in_subsample,
)
from dihal_core.geometry.spectrum import fixed_start, top_eigenvalue
from dihal_core.geometry.stiffness import median_stiffness, median_stiffness_dual


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the proxies of one set of rows are read from. Units: activations squared, unless said otherwise."""

    num_rows: int
    num_columns: int
    trace: float
    """tr(Sigma), ddof 1."""
    lambda_max: float
    """Largest eigenvalue of Sigma."""
    local_middle: tuple[float, float]
    """The two middle order statistics of lambda_max(Sigma_i) over points."""
    squared_M: np.ndarray
    """|x_i - x_j|^2 of the kept pairs."""
    dropped_pairs: int
    """Pairs of identical rows, for which the ratio is undefined."""
    median_stiffness: Callable[[float], float]
    """eps -> median pair ratio, in 1 / (activations squared)."""


Moments = tuple[float, float, Callable[[float], float]]
"""Trace, largest eigenvalue, and eps -> median stiffness."""


def require_finite(x_ND: np.ndarray, label: str) -> None:
    """Raise `NumericsError` naming the first row with a NaN or inf."""
    for first in range(0, len(x_ND), 4096):
        bad_B = ~np.isfinite(x_ND[first : first + 4096]).all(axis=1)
        if bad_B.any():
            row = first + int(bad_B.argmax())
            column = int((~np.isfinite(x_ND[row])).argmax())
            raise NumericsError(
                f"{label}: row {row} holds {x_ND[row, column]} in column {column}; "
                "activations must be finite, store them as bfloat16 or float32, never float16"
            )


def check_request(num_rows: int, pairs_M2: np.ndarray, k: int) -> None:
    """Raise `ConfigError` for a sample too small for k neighbours or for impossible pairs."""
    if num_rows < k + 2:
        raise ConfigError(f"got {num_rows} rows for k = {k}; at least k + 2 = {k + 2} are needed: add rows or lower k")
    pairs_M2 = np.asarray(pairs_M2)
    if pairs_M2.ndim != 2 or pairs_M2.shape[1] != 2 or len(pairs_M2) == 0 or pairs_M2.dtype.kind not in "iu":
        raise ConfigError(f"pairs have shape {pairs_M2.shape} and type {pairs_M2.dtype}; pass integers of shape (M, 2)")
    if pairs_M2.min() < 0 or pairs_M2.max() >= num_rows:
        raise ConfigError(f"pairs name rows {pairs_M2.min()}..{pairs_M2.max()} of {num_rows}; use 0..{num_rows - 1}")
    if (pairs_M2[:, 0] == pairs_M2[:, 1]).any():
        row = int(pairs_M2[(pairs_M2[:, 0] == pairs_M2[:, 1]).argmax(), 0])
        raise ConfigError(f"a pair joins row {row} with itself; pairs need two different rows")
    possible = num_rows * (num_rows - 1) // 2
    if len(pairs_M2) > possible:
        raise ConfigError(
            f"got {len(pairs_M2)} pairs of {num_rows} rows; only {possible} exist: lower num_pairs or add rows"
        )


def identical_rows(x_ND: np.ndarray) -> np.ndarray:
    """Return one label per row, equal exactly where rows are equal, shape (N,)."""
    plain_ND = np.ascontiguousarray(x_ND + 0.0)  # -0.0 becomes 0.0: equal values get equal bytes
    bytes_N = plain_ND.view(np.dtype((np.void, plain_ND.dtype.itemsize * plain_ND.shape[1]))).reshape(-1)
    return np.unique(bytes_N, return_inverse=True)[1].reshape(-1).astype(np.int32)


class GramPool:
    """Rows with their Gram matrix and neighbour lists.

    Parameters
    ----------
    x_ND : ndarray of shape (N, D)
        Rows; computed in float64 about their common mean.
    k : int
        Neighbours of each point.
    sample_rows : int, optional
        Size of the subsamples to come; None if only the whole pool will be measured.
    label : str
        Named in errors, e.g. `layer 7`.
    """

    def __init__(self, x_ND: np.ndarray, k: int, sample_rows: int | None = None, label: str = "x"):
        if x_ND.ndim != 2 or x_ND.shape[1] < 1:
            raise ConfigError(f"{label}: got an array of shape {x_ND.shape}; pass (rows, dimensions)")
        if len(x_ND) < k + 2:
            raise ConfigError(
                f"{label}: got {len(x_ND)} rows for k = {k}; at least k + 2 = {k + 2} are needed: add rows or lower k"
            )
        require_finite(x_ND, label)
        self.k, self.label = k, label
        self.twin_N = identical_rows(x_ND)
        if self.twin_N.max() == 0:
            raise NumericsError(f"{label}: all {len(x_ND)} rows are equal; there is no variance to measure")
        self.centred_ND = np.ascontiguousarray(x_ND, dtype=np.float64)
        self.centred_ND = self.centred_ND - self.centred_ND.mean(axis=0)
        self.gram_NN = self.centred_ND @ self.centred_ND.T
        self.norm_N = np.ascontiguousarray(np.diagonal(self.gram_NN))
        self.start_D = self._leading_direction(len(x_ND) if sample_rows is None else sample_rows)
        depth = list_depth(len(x_ND), sample_rows, k) if sample_rows is not None else None
        self.lists_NK = None if depth is None else nearest(self.gram_NN, depth)

    def sample(self, pairs_M2: np.ndarray, rows_n: np.ndarray | None = None) -> Sample:
        """Return the sample of the pool rows `rows_n` (all by default); pairs are positions within it.

        Raises
        ------
        ConfigError
            Too few rows, impossible pairs.
        NumericsError
            No variance, or only pairs of identical rows.
        """
        n = len(self.centred_ND) if rows_n is None else len(rows_n)
        check_request(n, pairs_M2, self.k)
        index_n = np.arange(n) if rows_n is None else np.asarray(rows_n)
        if (self.twin_N[index_n] == self.twin_N[index_n[0]]).all():
            raise NumericsError(f"{self.label}: the {n} sampled rows are all equal; there is no variance to measure")
        kept_M2, squared_M = self._squared_distances(np.asarray(pairs_M2), index_n)
        whole = rows_n is None
        many = n > self.centred_ND.shape[1]
        listed = many and not whole and self._lists_serve(n)
        part_nn = self.gram_NN if whole or listed else _submatrix(self.gram_NN, index_n)
        if listed and self.lists_NK is not None:
            neighbours_nk = nearest_in_subsample(self.lists_NK, index_n, self.k, self.gram_NN)
        else:
            neighbours_nk = index_n[nearest(part_nn, self.k)]
        members_nm = np.concatenate([index_n[:, None], neighbours_nk], axis=1)
        low, high = middle_top_eigenvalues(local_grams(self.gram_NN, self.centred_ND, self.twin_N, members_nm))
        if many:
            trace, lambda_max, stiffness = self._by_covariance(None if whole else index_n, kept_M2, squared_M)
        else:
            trace, lambda_max, stiffness = _by_gram(part_nn, kept_M2, squared_M)
        dropped = len(pairs_M2) - len(kept_M2)
        return Sample(
            n, self.centred_ND.shape[1], trace, lambda_max, (low / self.k, high / self.k), squared_M, dropped, stiffness
        )

    def _leading_direction(self, sample_rows: int) -> np.ndarray:
        """Start vector for subsamples: the pool's own leading direction, so that few steps are left."""
        start_D = fixed_start(self.centred_ND.shape[1])
        if sample_rows <= len(start_D) or sample_rows == len(self.centred_ND):
            return start_D
        return _top_of_triangle(syrk_columns(self.centred_ND), start_D)[1]

    def _lists_serve(self, n: int) -> bool:
        if self.lists_NK is None:
            return False
        needed = list_depth(len(self.centred_ND), n, self.k)
        # A subsample somewhat smaller than planned only has more rows whose list runs out.
        return needed is not None and needed <= 1.25 * self.lists_NK.shape[1]

    def _squared_distances(self, pairs_M2: np.ndarray, index_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Kept pairs and their squared distances; identical rows are found by value, not by a rounded zero."""
        i_M, j_M = index_n[pairs_M2[:, 0]], index_n[pairs_M2[:, 1]]
        differ_M = self.twin_N[i_M] != self.twin_N[j_M]
        if not differ_M.any():
            raise NumericsError(
                f"{self.label}: all {len(pairs_M2)} sampled pairs join identical rows; sample other rows"
            )
        i_M, j_M = i_M[differ_M], j_M[differ_M]
        size_M = self.norm_N[i_M] + self.norm_N[j_M]
        squared_M = size_M - 2.0 * np.take(
            self.gram_NN.reshape(-1), i_M.astype(np.int64) * len(self.gram_NN) + j_M, mode="clip"
        )
        close_M = np.flatnonzero(squared_M < CANCELLATION * size_M)
        if len(close_M):
            difference_CD = self.centred_ND[i_M[close_M]] - self.centred_ND[j_M[close_M]]
            squared_M[close_M] = np.einsum("cd,cd->c", difference_CD, difference_CD)
        return pairs_M2[differ_M], squared_M

    def _by_covariance(self, index_n: np.ndarray | None, kept_M2: np.ndarray, squared_M: np.ndarray) -> Moments:
        rows_nD = self.centred_ND
        if index_n is not None:
            rows_nD = np.take(self.centred_ND, index_n, axis=0, mode="clip")
            rows_nD -= rows_nD.mean(axis=0)
        covariance_DD = syrk_columns(rows_nD, 1.0 / (len(rows_nD) - 1))
        lambda_max, _ = _top_of_triangle(covariance_DD, self.start_D)
        return (
            float(np.trace(covariance_DD)),
            lambda_max,
            lambda eps: median_stiffness(rows_nD, covariance_DD, kept_M2, squared_M, eps),
        )


def _by_gram(gram_nn: np.ndarray, kept_M2: np.ndarray, squared_M: np.ndarray) -> Moments:
    n = len(gram_nn)
    mean_n = gram_nn.mean(axis=0)
    gram_nn = gram_nn - mean_n[:, None] - mean_n[None, :] + mean_n.mean()
    largest, _ = top_eigenvalue(lambda v_n: gram_nn @ v_n, fixed_start(n), lambda: gram_nn)
    return (
        float(np.trace(gram_nn)) / (n - 1),
        largest / (n - 1),
        lambda eps: median_stiffness_dual(gram_nn, kept_M2, squared_M, eps),
    )


def _top_of_triangle(covariance_DD: np.ndarray, start_D: np.ndarray) -> tuple[float, np.ndarray]:
    return top_eigenvalue(
        lambda v_D: symv(covariance_DD, v_D),
        start_D,
        lambda: np.triu(covariance_DD) + np.triu(covariance_DD, 1).T,
    )


def _submatrix(gram_NN: np.ndarray, index_n: np.ndarray) -> np.ndarray:
    out_nn = np.empty((len(index_n), len(index_n)))
    for first in range(0, len(index_n), 128):
        wide_BN = np.take(gram_NN, index_n[first : first + 128], axis=0, mode="clip")
        np.take(wide_BN, index_n, axis=1, out=out_nn[first : first + 128], mode="clip")
    return out_nn
