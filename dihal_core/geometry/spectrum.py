"""Largest eigenvalue of a symmetric positive semidefinite matrix, to near rounding."""

from collections.abc import Callable

import numpy as np

TOLERANCE = 1e-12
RESIDUAL = 1e-10
MAX_STEPS = 300


def top_eigenvalue(
    matvec: Callable[[np.ndarray], np.ndarray],
    start_D: np.ndarray,
    dense: Callable[[], np.ndarray],
) -> tuple[float, np.ndarray]:
    """Return the largest eigenvalue and its unit vector by Lanczos with full reorthogonalisation.

    The error of a Ritz value is at most its residual r, and about r^2 / gap where the leading
    eigenvalue stands clear of the others. It stops at r < 1e-10 and r^2 / gap < 1e-12, relative. Where
    the spectrum is too flat for that within 300 steps, the dense solver answers.

    Parameters
    ----------
    matvec : callable
        v -> A v, float64.
    start_D : ndarray of shape (D,)
        Start vector; any vector that is not orthogonal to the leading one.
    dense : callable
        Returns the full matrix, only called when Lanczos did not converge.
    """
    d = len(start_D)
    steps = min(d, MAX_STEPS)
    basis_SD = np.empty((steps, d))
    diagonal_S, off_S = np.zeros(steps), np.zeros(steps)
    vector_D = start_D / np.linalg.norm(start_D)
    for step in range(steps):
        basis_SD[step] = vector_D
        vector_D = matvec(vector_D)
        diagonal_S[step] = basis_SD[step] @ vector_D
        done_SD = basis_SD[: step + 1]
        for _ in range(2):
            vector_D = vector_D - (done_SD @ vector_D) @ done_SD
        off_S[step] = np.linalg.norm(vector_D)
        exhausted = off_S[step] <= 1e-15 * np.abs(diagonal_S[: step + 1]).max() or step + 1 == d
        if exhausted or (step >= 3 and step % 3 == 0):
            ritz_S, ritz_vectors_SS = np.linalg.eigh(_tridiagonal(diagonal_S[: step + 1], off_S[:step]))
            value = float(ritz_S[-1])
            residual = off_S[step] * abs(ritz_vectors_SS[-1, -1])
            # Another eigenvalue may hide between the two leading Ritz values: half their distance is used.
            gap = 0.5 * (value - float(ritz_S[-2])) if step else value
            close = residual <= RESIDUAL * value and residual**2 <= TOLERANCE * value * gap
            if exhausted or close:
                return value, ritz_vectors_SS[:, -1] @ done_SD
        vector_D = vector_D / off_S[step]
    values_D, vectors_DD = np.linalg.eigh(dense())
    return float(values_D[-1]), vectors_DD[:, -1]


def _tridiagonal(diagonal_S: np.ndarray, off_S: np.ndarray) -> np.ndarray:
    return np.diag(diagonal_S) + np.diag(off_S, 1) + np.diag(off_S, -1)


def fixed_start(d: int) -> np.ndarray:
    """Return the same generic start vector for every call of one size."""
    return np.random.Generator(np.random.PCG64(d)).standard_normal(d)
