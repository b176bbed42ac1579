"""Median of (x_i - x_j)^T (Sigma + eps I)^-1 (x_i - x_j) / |x_i - x_j|^2 over sampled pairs.

Two routes, never an inverse of a D x D matrix:

- n > D: Cholesky of Sigma + eps I and one triangular solve for all rows.
- n <= D: the dual form. With K = Xc Xc^T / (n - 1), M = (K + c 11^T + eps I)^-1 (pairs are orthogonal
  to the ones vector, which K sends to zero), the numerator is (n-1) (2 - eps (M_ii + M_jj - 2 M_ij)).

Where the Cholesky factor is too ill-conditioned to be trusted, an eigendecomposition answers.

Letters: n rows, D columns, M pairs, C candidate pairs.
"""

import numpy as np

from dihal_core.errors import NumericsError
from dihal_core.geometry.blas import cholesky, inverse_from_cholesky, whiten_rows

PIVOT_RATIO = 1e-11
"""Squared pivots of the Cholesky factor below this share of the largest are too close to rounding."""
DUAL_ERROR = 1e-10
"""Largest estimated error of a dual numerator (of order 1) that is accepted from the Cholesky factor."""
PROBES = 64
SAFETY = 32.0


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
    factor_DD = _trusted_cholesky(covariance_DD, eps)
    if factor_DD is None:
        return _median_by_eigenvectors(centred_nD, covariance_DD, pairs_M2, squared_M, eps)

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


def _trusted_cholesky(covariance_DD: np.ndarray, eps: float) -> np.ndarray | None:
    ridged_DD = covariance_DD.copy()
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


def _median_by_eigenvectors(
    centred_nD: np.ndarray, covariance_DD: np.ndarray, pairs_M2: np.ndarray, squared_M: np.ndarray, eps: float
) -> float:
    values_D, vectors_DD = np.linalg.eigh(covariance_DD, UPLO="U")
    scale_D = 1.0 / np.sqrt(np.maximum(values_D, 0.0) + eps)
    difference_MD = centred_nD[pairs_M2[:, 0]] - centred_nD[pairs_M2[:, 1]]
    white_MD = (difference_MD @ vectors_DD) * scale_D
    return float(np.median(np.einsum("md,md->m", white_MD, white_MD) / squared_M))


def median_stiffness_dual(gram_nn: np.ndarray, pairs_M2: np.ndarray, squared_M: np.ndarray, eps: float) -> float:
    """Median of the pair ratios by the dual route (n <= D); no D x D work.

    Parameters
    ----------
    gram_nn : ndarray of shape (n, n), float64
        Inner products of rows centred by their own mean (rows sum to zero).
    """
    n = len(gram_nn)
    kernel_nn = gram_nn / (n - 1)
    i_M, j_M = pairs_M2[:, 0], pairs_M2[:, 1]
    shift = float(np.trace(kernel_nn)) / n**2
    factor_nn = _trusted_cholesky(kernel_nn + shift, eps)
    if factor_nn is not None:
        inverse_nn = inverse_from_cholesky(factor_nn)
        diagonal_n = np.diagonal(inverse_nn)
        # The inverse is off by about (condition number) x (rounding); eps times that must not show.
        largest = float(diagonal_n.max())
        error = eps * largest * (largest * n**2 * shift) * np.finfo(float).eps
        if error < DUAL_ERROR:
            across_M = inverse_nn[np.minimum(i_M, j_M), np.maximum(i_M, j_M)]
            numerator_M = 2.0 - eps * (diagonal_n[i_M] + diagonal_n[j_M] - 2.0 * across_M)
            return float(np.median((n - 1) * numerator_M / squared_M))
    values_n, vectors_nn = np.linalg.eigh(kernel_nn)
    # Rounding fills the null space of a rank-deficient K with values of this size; eps may be smaller still.
    values_n[values_n < 16 * np.finfo(float).eps * values_n[-1]] = 0.0
    scaled_nn = vectors_nn * np.sqrt(values_n / (values_n + eps))
    difference_Mn = scaled_nn[i_M] - scaled_nn[j_M]
    numerator_M = np.einsum("mn,mn->m", difference_Mn, difference_Mn)
    return float(np.median((n - 1) * numerator_M / squared_M))
