"""What the metrics of one layer share: one Gram matrix, one spectrum, one table of neighbour distances.

Letters: N rows, D columns, R variances, K listed neighbours.
"""

import dataclasses
from functools import cached_property

import numpy as np

from dihal_core.geometry.blas import syrk_columns
from dihal_core.geometry.neighbourhoods import CANCELLATION
from dihal_core.geometry.pool import GramPool

LISTED = 64
"""Neighbours whose distances are kept: twice the largest GRIDE scale."""


@dataclasses.dataclass(frozen=True)
class LayerSummary:
    """What metrics over pairs of layers keep of a layer once its Gram matrix is gone."""

    centred_ND: np.ndarray
    """Rows about their mean, float32."""
    neighbours_Nk: np.ndarray
    """The k nearest other rows (Euclidean)."""


class LayerView:
    """Lazy quantities of one layer, each computed at most once.

    Parameters
    ----------
    pool : GramPool
        The rows, their Gram matrix and, where it has them, neighbour lists: those of the proxies.
    """

    def __init__(self, pool: GramPool):
        self.pool = pool

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.pool.centred_ND)

    @cached_property
    def variances_R(self) -> np.ndarray:
        """Eigenvalues of the ddof-1 covariance that are not zero up to rounding, largest first; activation^2."""
        n, d = self.pool.centred_ND.shape
        if n > d:
            triangle_DD = syrk_columns(self.pool.centred_ND, 1.0 / (n - 1))
            values_R = np.linalg.eigvalsh(triangle_DD, UPLO="U")
        else:
            values_R = np.linalg.eigvalsh(self.pool.gram_NN) / (n - 1)
        return _without_rounding(values_R)

    @cached_property
    def singular_R(self) -> np.ndarray:
        """Singular values of the rows, not centred, largest first; activation."""
        pool, (n, d) = self.pool, self.pool.centred_ND.shape
        if n > d:
            moment_DD = syrk_columns(pool.centred_ND) + n * np.outer(pool.mean_D, pool.mean_D)
            return np.sqrt(_without_rounding(np.linalg.eigvalsh(moment_DD, UPLO="U")))
        along_N = pool.centred_ND @ pool.mean_D
        moment_NN = pool.gram_NN + along_N[:, None] + along_N[None, :] + pool.mean_D @ pool.mean_D
        return np.sqrt(_without_rounding(np.linalg.eigvalsh(moment_NN)))

    @cached_property
    def neighbours_NK(self) -> np.ndarray:
        """The nearest other rows (Euclidean), nearest first, at most 64."""
        depth = min(LISTED, self.num_rows - 1)
        lists_NK = self.pool.lists_NK
        if lists_NK is not None and lists_NK.shape[1] >= depth and self.pool.search_NN is self.pool.gram_NN:
            return lists_NK[:, :depth]
        return self.pool.algebra.nearest(self.pool.gram_NN, depth)

    @cached_property
    def distance_NK(self) -> np.ndarray:
        """Euclidean distances to `neighbours_NK`, ascending; exactly 0 for identical rows."""
        pool, near_NK = self.pool, self.neighbours_NK
        size_NK = pool.norm_N[:, None] + pool.norm_N[near_NK]
        squared_NK = size_NK - 2.0 * np.take_along_axis(pool.gram_NN, near_NK.astype(np.int64), axis=1)
        row_C, column_C = np.nonzero(squared_NK < CANCELLATION * size_NK)
        for first in range(0, len(row_C), 4096):
            rows, columns = row_C[first : first + 4096], column_C[first : first + 4096]
            difference_CD = pool.centred_ND[rows] - pool.centred_ND[near_NK[rows, columns]]
            squared_NK[rows, columns] = np.einsum("cd,cd->c", difference_CD, difference_CD)
        squared_NK[pool.twin_N[:, None] == pool.twin_N[near_NK]] = 0.0
        return np.sort(np.sqrt(squared_NK), axis=1)

    def summary(self) -> LayerSummary:
        """Return a small copy for the metrics over pairs of layers."""
        return LayerSummary(self.pool.centred_ND.astype(np.float32), self.neighbours_NK[:, : self.pool.k].copy())


def _without_rounding(values_R: np.ndarray) -> np.ndarray:
    descending_R = values_R[::-1]
    return descending_R[descending_R > len(values_R) * np.finfo(float).eps * descending_R[0]]
