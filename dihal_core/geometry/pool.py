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

from dihal_core.config import ProxySettings
from dihal_core.errors import NumericsError
from dihal_core.geometry.algebra import algebra_of
from dihal_core.geometry.blas import symv, syrk_columns
from dihal_core.geometry.neighbourhoods import (
    CANCELLATION,
    FORMS,
    list_depth,
    local_grams,
    nearest,
    nearest_in_subsample,
)
from dihal_core.geometry.rows import check_request, identical_rows, require_rows, rms_rows, unit_rows
from dihal_core.geometry.spectrum import fixed_start, top_eigenvalue
from dihal_core.geometry.stiffness import DualStiffness, median_stiffness


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
    """The two middle order statistics over points of the local spread that `curvature_form` names."""
    squared_M: np.ndarray
    """|x_i - x_j|^2 of the kept pairs."""
    dropped_pairs: int
    """Pairs of identical rows, for which the ratio is undefined."""
    median_stiffness: Callable[[float], float]
    """eps -> median pair ratio, in 1 / (activations squared)."""


Moments = tuple[float, float, Callable[[float], float]]
"""Trace, largest eigenvalue, and eps -> median stiffness."""


class GramPool:
    """Rows with their Gram matrix and neighbour lists.

    Parameters
    ----------
    x_ND : ndarray of shape (N, D)
        Rows; computed in float64 about their common mean.
    settings : ProxySettings
        `k`, `metric`, `include_self`, `curvature_form`, `backend` and `scaling` (here only `token_rms`) are read.
    sample_rows : int, optional
        Size of the subsamples to come; None if only the whole pool will be measured.
    label : str
        Named in errors, e.g. `layer 7`.
    """

    def __init__(self, x_ND: np.ndarray, settings: ProxySettings, sample_rows: int | None = None, label: str = "x"):
        require_rows(x_ND, settings.k, label)
        if settings.scaling == "token_rms":
            x_ND = rms_rows(x_ND, label)
        self.settings, self.k, self.label = settings, settings.k, label
        self.algebra = algebra_of(settings.backend)
        self.twin_N = identical_rows(x_ND)
        if self.twin_N.max() == 0:
            raise NumericsError(f"{label}: all {len(x_ND)} rows are equal; there is no variance to measure")
        self.centred_ND = np.ascontiguousarray(x_ND, dtype=np.float64)
        self.mean_D = self.centred_ND.mean(axis=0)
        self.centred_ND = self.centred_ND - self.mean_D
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow is refused below
            self.gram_NN = self.algebra.product(self.centred_ND, self.centred_ND.T)
        self.norm_N = np.ascontiguousarray(np.diagonal(self.gram_NN))
        if not 0.0 < self.trace < np.inf:
            raise NumericsError(
                f"{label}: the total variance is {self.trace} in float64; rescale the rows to ordinary magnitudes"
            )
        self.search_NN = self.gram_NN
        """Inner products whose distances decide who is a neighbour."""
        if settings.metric == "cosine":
            unit_ND = unit_rows(x_ND, label)
            self.search_NN = self.algebra.product(unit_ND, unit_ND.T)
        self.start_D = self._leading_direction(len(x_ND) if sample_rows is None else sample_rows)
        depth = list_depth(len(x_ND), sample_rows, self.k) if sample_rows is not None else None
        self.lists_NK = None if depth is None else self.algebra.nearest(self.search_NN, depth)

    @property
    def trace(self) -> float:
        """Total variance of all rows, ddof 1."""
        return float(self.norm_N.sum()) / (len(self.norm_N) - 1)

    def sample(self, pairs_M2: np.ndarray, rows_n: np.ndarray | None = None, last: bool = False) -> Sample:
        """Return the sample of the pool rows `rows_n` (all by default); pairs are positions within it.

        With `last` the pool gives up its Gram matrix where that saves a copy, and serves no further sample.

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
        listed = not whole and self._lists_serve(n)
        part_nn = self.gram_NN if whole or (listed and many) else _submatrix(self.gram_NN, index_n)
        if listed and self.lists_NK is not None:
            neighbours_nk = nearest_in_subsample(self.lists_NK, index_n, self.k, self.search_NN)
        elif self.search_NN is self.gram_NN:
            neighbours_nk = index_n[nearest(part_nn, self.k)]
        else:
            neighbours_nk = index_n[nearest(self.search_NN if whole else _submatrix(self.search_NN, index_n), self.k)]
        local_nmm, divisor = self.neighbourhoods(index_n, neighbours_nk)
        low, high = FORMS[self.settings.curvature_form].middle(local_nmm)
        if many:
            trace, lambda_max, stiffness = self._by_covariance(None if whole else index_n, kept_M2, squared_M)
        else:
            own_nn = np.empty_like(part_nn) if part_nn is self.gram_NN and not last else part_nn
            trace, lambda_max, stiffness = _by_gram(_centred_into(own_nn, part_nn), kept_M2, squared_M)
        dropped = len(pairs_M2) - len(kept_M2)
        middle = (low / divisor, high / divisor)
        return Sample(n, self.centred_ND.shape[1], trace, lambda_max, middle, squared_M, dropped, stiffness)

    def neighbourhoods(self, rows_n: np.ndarray, neighbours_nk: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the centred Gram matrices (n, m, m) of neighbourhoods, and what turns them into local spreads."""
        members_nm = neighbours_nk
        if self.settings.include_self:
            members_nm = np.concatenate([rows_n[:, None], neighbours_nk], axis=1)
        divisor = members_nm.shape[1] - 1
        if FORMS[self.settings.curvature_form].over_k:
            divisor *= self.k
        return local_grams(self.gram_NN, self.centred_ND, self.twin_N, members_nm), divisor

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
    """Moments from a centred Gram matrix, which is overwritten."""
    n = len(gram_nn)
    trace = float(np.trace(gram_nn)) / (n - 1)
    largest, _ = top_eigenvalue(lambda v_n: gram_nn @ v_n, fixed_start(n), lambda: gram_nn)
    return trace, largest / (n - 1), DualStiffness(gram_nn, kept_M2, squared_M)


def _centred_into(out_nn: np.ndarray, gram_nn: np.ndarray) -> np.ndarray:
    """Write the Gram matrix of the rows about their own mean; `out_nn` may be `gram_nn`."""
    mean_n = gram_nn.mean(axis=0)
    level = mean_n.mean()
    for first in range(0, len(gram_nn), 128):
        block = slice(first, first + 128)
        out_Bn = np.subtract(gram_nn[block], mean_n[block, None], out=out_nn[block])
        out_Bn -= mean_n
        out_Bn += level
    return out_nn


def _top_of_triangle(covariance_DD: np.ndarray, start_D: np.ndarray) -> tuple[float, np.ndarray]:
    return top_eigenvalue(
        lambda v_D: symv(covariance_DD, v_D),
        start_D,
        lambda: np.triu(covariance_DD) + np.triu(covariance_DD, 1).T,
    )


def _submatrix(gram_NN: np.ndarray, index_n: np.ndarray) -> np.ndarray:
    total, n = len(gram_NN), len(index_n)
    out_nn = np.empty((n, n))
    for first in range(0, n, 128):
        block = slice(first, first + 128)
        if 8 * n < total:  # few entries of each row: one by one is cheaper than whole rows
            flat_Bn = index_n[block, None].astype(np.int64) * total + index_n
            np.take(gram_NN.reshape(-1), flat_Bn, out=out_nn[block], mode="clip")
        else:
            wide_BN = np.take(gram_NN, index_n[block], axis=0, mode="clip")
            np.take(wide_BN, index_n, axis=1, out=out_nn[block], mode="clip")
    return out_nn
