"""Median of (x_i - x_j)^T (Sigma + eps I)^-1 (x_i - x_j) / |x_i - x_j|^2 over sampled pairs.

Two routes, never an inverse of a D x D matrix:

- n > D: Cholesky of Sigma + eps I and one triangular solve for all rows.
- n <= D: the dual form. With K = Xc Xc^T / (n - 1), M = (K + c 11^T + eps I)^-1 (pairs are orthogonal
  to the ones vector, which K sends to zero), the numerator is (n-1) (2 - eps (M_ii + M_jj - 2 M_ij)).

Where the Cholesky factor is too ill-conditioned to be trusted, a singular value (n > D) or eigenvalue decomposition
answers.

Letters: n rows, D columns, M pairs, C candidate pairs.
"""

import numpy as np

from dihal_core.errors import NumericsError
from dihal_core.geometry.blas import (
    cholesky,
    inverse_from_cholesky,
    inverse_of_factor,
    unwhiten_rows,
    whiten_rows,
)

PIVOT_RATIO = 1e-11
"""Squared pivots of the Cholesky factor below this share of the largest are too close to rounding."""
DUAL_ERROR = 1e-10
"""Largest estimated error of a dual numerator (of order 1) that is accepted from the Cholesky factor."""
GUIDED_ROWS = 1000
"""From this many rows on, an inverse costs more than finding the few pairs that decide the median."""
NEAR_IDENTITY = 1e-3
"""Relative deviation of the numerators from 2 up to which they are found by guided solves."""
PROBES = 64
SAFETY = 32.0
BLOCK = 128


def median_stiffness(
    centred_nD: np.ndarray, covariance_DD: np.ndarray, pairs_M2: np.ndarray, squared_M: np.ndarray, eps: float
) -> float:
    """Median of the pair ratios by the covariance route (n > D).

    Parameters
    ----------
    centred_nD : ndarray of shape (n, D), float64
        Rows; a common offset does not matter.
    covariance_DD : ndarray of shape (D, D), float64
        ddof-1 covariance, upper triangle.
    pairs_M2 : ndarray of shape (M, 2), int
        Positions of the pairs among the rows.
    squared_M : ndarray of shape (M,), float64
        |x_i - x_j|^2 > 0.
    eps : float
        Ridge in the units of the covariance.
    """
    factor_DD = _trusted_cholesky(covariance_DD.copy(), eps)
    if factor_DD is None:
        return _median_by_singular_vectors(centred_nD, pairs_M2, squared_M, eps)

    def exact(chosen_C: np.ndarray) -> np.ndarray:
        pairs_C2 = pairs_M2[chosen_C]
        difference_CD = np.take(centred_nD, pairs_C2[:, 0], axis=0, mode="clip")
        difference_CD -= np.take(centred_nD, pairs_C2[:, 1], axis=0, mode="clip")
        whiten_rows(factor_DD, difference_CD)
        return np.einsum("cd,cd->c", difference_CD, difference_CD) / squared_M[chosen_C]

    if len(pairs_M2) < 8 * PROBES:
        return float(np.median(exact(np.arange(len(pairs_M2)))))
    rough_M = _rough_ratios(factor_DD, centred_nD, pairs_M2, squared_M)
    return median_with_guide(rough_M, exact)


def _trusted_cholesky(ridged_DD: np.ndarray, eps: float) -> np.ndarray | None:
    """Add the ridge and factor, both in place; None where the factor is too ill-conditioned."""
    ridged_DD[np.diag_indices(len(ridged_DD))] += eps
    try:
        factor_DD = cholesky(ridged_DD)
    except NumericsError:
        return None
    pivots_D = np.diagonal(factor_DD) ** 2
    return factor_DD if pivots_D.min() > PIVOT_RATIO * pivots_D.max() else None


def _rough_ratios(
    factor_DD: np.ndarray, centred_nD: np.ndarray, pairs_M2: np.ndarray, squared_M: np.ndarray
) -> np.ndarray:
    """Pair ratios in float32 arithmetic: good enough to say which of them lie near the median."""
    white_nD = whiten_rows(factor_DD.astype(np.float32), centred_nD.astype(np.float32))
    difference_MD = np.take(white_nD, pairs_M2[:, 0], axis=0, mode="clip")
    difference_MD -= np.take(white_nD, pairs_M2[:, 1], axis=0, mode="clip")
    return np.einsum("md,md->m", difference_MD, difference_MD).astype(np.float64) / squared_M


def median_with_guide(rough_M: np.ndarray, exact) -> float:
    """Return the median of `exact(arange(M))` while evaluating few of its entries.

    Approximate values order the pairs. Evenly spread probes measure how wrong they are; every pair
    within 32 times the largest error of the middle is then evaluated exactly, the others only have to
    be on their side. Where the approximation is too poor to decide, all pairs are evaluated.

    Parameters
    ----------
    rough_M : ndarray of shape (M,), float64
        Approximate positive values.
    exact : callable
        Positions -> exact values in float64.
    """
    count = len(rough_M)
    everything_M = np.arange(count)
    low, high = (count - 1) // 2, count // 2
    if not (np.isfinite(rough_M).all() and rough_M.min() > 0):
        return float(np.median(exact(everything_M)))
    order_M = np.argsort(rough_M, kind="stable")
    probes_P = order_M[np.linspace(0, count - 1, PROBES).astype(int)]
    middle_P = order_M[max(0, low - PROBES // 2) : high + 1 + PROBES // 2]
    checked_C = np.union1d(probes_P, middle_P)
    checked_value_C = exact(checked_C)
    error = float(np.abs(rough_M[checked_C] / checked_value_C - 1.0).max())
    window = max(SAFETY * error, 1e-6)
    if window > 0.05:
        return float(np.median(exact(everything_M)))
    near_M = (rough_M >= rough_M[order_M[low]] * (1 - window)) & (rough_M <= rough_M[order_M[high]] * (1 + window))
    below = int((rough_M < rough_M[order_M[low]] * (1 - window)).sum())
    near_C = np.flatnonzero(near_M)
    if len(near_C) > count // 2:
        return float(np.median(exact(everything_M)))
    value_C = np.empty(len(near_C))
    known_C = np.isin(near_C, checked_C)
    value_C[known_C] = checked_value_C[np.searchsorted(checked_C, near_C[known_C])]
    if not known_C.all():
        value_C[~known_C] = exact(near_C[~known_C])
    value_C.sort()
    return float(0.5 * (value_C[low - below] + value_C[high - below]))


def _median_by_singular_vectors(
    centred_nD: np.ndarray, pairs_M2: np.ndarray, squared_M: np.ndarray, eps: float
) -> float:
    """By the singular values of the rows: rounding hides variances below 1e-31 of the largest, not below 1e-15.

    One dimension a million times the others would otherwise drown true directions.
    """
    rows_nD = centred_nD - centred_nD.mean(axis=0)
    _, values_R, vectors_RD = np.linalg.svd(rows_nD, full_matrices=False)
    variance_R = values_R**2 / (len(rows_nD) - 1)
    real_R = values_R > max(rows_nD.shape) * np.finfo(float).eps * values_R[0]
    scale_R = np.where(real_R, 1.0 / np.sqrt(np.where(real_R, variance_R, 1.0) + eps), 0.0)
    difference_MD = rows_nD[pairs_M2[:, 0]] - rows_nD[pairs_M2[:, 1]]
    white_MR = (difference_MD @ vectors_RD.T) * scale_R
    return float(np.median(np.einsum("mr,mr->m", white_MR, white_MR) / squared_M))


class DualStiffness:
    """Median of the pair ratios by the dual route (n <= D), for any number of ridges; no D x D work.

    Parameters
    ----------
    gram_nn : ndarray of shape (n, n), float64
        Inner products of rows centred by their own mean (rows sum to zero). Overwritten.
    pairs_M2 : ndarray of shape (M, 2), int
        Positions of the pairs among the rows.
    squared_M : ndarray of shape (M,), float64
        |x_i - x_j|^2 > 0.
    """

    def __init__(self, gram_nn: np.ndarray, pairs_M2: np.ndarray, squared_M: np.ndarray):
        self.pairs_M2, self.squared_M = pairs_M2, squared_M
        self.kernel_nn = np.divide(gram_nn, len(gram_nn) - 1, out=gram_nn)
        self.trace = float(np.trace(self.kernel_nn))
        self.shift = self.trace / len(gram_nn) ** 2
        self.scratch_nn: np.ndarray | None = None

    def __call__(self, eps: float) -> float:
        """Return the median ratio under the ridge `eps`, in units of the covariance."""
        n = len(self.kernel_nn)
        self.scratch_nn = np.add(self.kernel_nn, self.shift, out=self.scratch_nn)
        factor_nn = _trusted_cholesky(self.scratch_nn, eps)
        if factor_nn is not None and n >= GUIDED_ROWS:
            found = self._near_identity(factor_nn, eps)
            found = self._guided_by_the_inverse_factor(factor_nn, eps) if found is None else found
            if found is not None:
                return found
        elif factor_nn is not None:
            i_M, j_M = self.pairs_M2[:, 0], self.pairs_M2[:, 1]
            inverse_nn = inverse_from_cholesky(factor_nn)
            diagonal_n = np.diagonal(inverse_nn)
            # The inverse is off by about (condition number) x (rounding); eps times that must not show.
            largest = float(diagonal_n.max())
            error = eps * largest * (largest * n**2 * self.shift) * np.finfo(float).eps
            if error < DUAL_ERROR:
                across_M = inverse_nn[np.minimum(i_M, j_M), np.maximum(i_M, j_M)]
                numerator_M = 2.0 - eps * (diagonal_n[i_M] + diagonal_n[j_M] - 2.0 * across_M)
                return float(np.median((n - 1) * numerator_M / self.squared_M))
        return self._by_eigenvectors(eps)

    def _near_identity(self, factor_nn: np.ndarray, eps: float) -> float | None:
        """The median where all numerators are nearly 2, as they are for a small ridge: few solves, no inverse.

        None where they are not, or where rounding would show.
        """
        n, worst = len(factor_nn), 0.0

        def exact(chosen_C: np.ndarray) -> np.ndarray:
            nonlocal worst
            right_Cn = self._white_differences(factor_nn, chosen_C)
            numerator_C = 2.0 - eps * np.einsum("cn,cn->c", right_Cn, right_Cn)
            # A backward error E of the factor moves a numerator by eps y^T E y, y the solution of the pair.
            unwhiten_rows(factor_nn, right_Cn)
            worst = max(worst, eps * self.trace * float(np.einsum("cn,cn->c", right_Cn, right_Cn).max()))
            return (n - 1) * numerator_C / self.squared_M[chosen_C]

        rough_M = 2.0 * (n - 1) / self.squared_M
        first_C = np.linspace(0, len(rough_M) - 1, min(16, len(rough_M))).astype(int)
        if np.abs(exact(first_C) / rough_M[first_C] - 1.0).max() > NEAR_IDENTITY:
            return None
        found = median_with_guide(rough_M, exact)
        return found if worst * np.finfo(float).eps < DUAL_ERROR else None

    def _guided_by_the_inverse_factor(self, factor_nn: np.ndarray, eps: float) -> float | None:
        """The median with |row_i - row_j|^2 of R^-1 in float32 as the guide; None where rounding would show.

        The float32 inverse only says which pairs lie near the median; those are solved in float64.
        """
        rows_nn = inverse_of_factor(factor_nn.astype(np.float32))
        n, count = len(rows_nn), len(self.pairs_M2)
        diagonal_n = np.empty(n)
        for first in range(0, n, BLOCK):
            upper_Bn = np.triu(rows_nn[first : first + BLOCK], first)
            rows_nn[first : first + BLOCK] = upper_Bn
            diagonal_n[first : first + BLOCK] = np.einsum("bn,bn->b", upper_Bn, upper_Bn)
        largest = float(diagonal_n.max())
        # A guide that overflowed or lost its digits fails this too, and the eigenvectors answer.
        if not 2.0 * eps * largest * (largest * self.trace) * np.finfo(float).eps < DUAL_ERROR:
            return None
        rough_M = np.empty(count)
        for first in range(0, count, BLOCK):
            pairs_B2 = self.pairs_M2[first : first + BLOCK]
            difference_Bn = np.take(rows_nn, pairs_B2[:, 0], axis=0, mode="clip")
            difference_Bn -= np.take(rows_nn, pairs_B2[:, 1], axis=0, mode="clip")
            rough_M[first : first + BLOCK] = 2.0 - eps * np.einsum("bn,bn->b", difference_Bn, difference_Bn)
        rough_M *= (n - 1) / self.squared_M

        def exact(chosen_C: np.ndarray) -> np.ndarray:
            white_Cn = self._white_differences(factor_nn, chosen_C)
            numerator_C = 2.0 - eps * np.einsum("cn,cn->c", white_Cn, white_Cn)
            return (n - 1) * numerator_C / self.squared_M[chosen_C]

        return median_with_guide(rough_M, exact)

    def _white_differences(self, factor_nn: np.ndarray, chosen_C: np.ndarray) -> np.ndarray:
        """R^-T (e_i - e_j) of the chosen pairs, one a row."""
        pairs_C2, line_C = self.pairs_M2[chosen_C], np.arange(len(chosen_C))
        right_Cn = np.zeros((len(chosen_C), len(factor_nn)))
        right_Cn[line_C, pairs_C2[:, 0]] = 1.0
        right_Cn[line_C, pairs_C2[:, 1]] = -1.0
        return whiten_rows(factor_nn, right_Cn)

    def _by_eigenvectors(self, eps: float) -> float:
        values_n, vectors_nn = np.linalg.eigh(self.kernel_nn)
        # Rounding fills the null space of a rank-deficient K with values of this size; eps may be smaller still.
        values_n[values_n < 16 * np.finfo(float).eps * values_n[-1]] = 0.0
        scaled_nn = vectors_nn * np.sqrt(values_n / (values_n + eps))
        difference_Mn = scaled_nn[self.pairs_M2[:, 0]] - scaled_nn[self.pairs_M2[:, 1]]
        numerator_M = np.einsum("mn,mn->m", difference_Mn, difference_Mn)
        return float(np.median((len(scaled_nn) - 1) * numerator_M / self.squared_M))
