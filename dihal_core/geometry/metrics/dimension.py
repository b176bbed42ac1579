"""Intrinsic dimension from neighbour distances.

Estimates on neural representations are disputed and depend on N and on the scale: compare them only within
one N, one scale and one corpus. Rows whose nearer neighbour is identical (distance 0) are left out.

Letters: N rows, K neighbours in ascending distance, Q rows that count.
"""

from typing import Any

import numpy as np
from scipy.optimize import brentq

from dihal_core.errors import NumericsError

LARGEST_DIMENSION = 1e6


def _log_ratios(distance_NK: np.ndarray, near: int, far: int) -> np.ndarray:
    """log(r_far / r_near) of the rows where both are positive; neighbours are counted from 1."""
    if far > distance_NK.shape[1]:
        raise NumericsError(f"neighbour {far} is asked for, rows have {distance_NK.shape[1]}; add rows")
    near_N, far_N = distance_NK[:, near - 1], distance_NK[:, far - 1]
    log_Q = np.log(far_N[near_N > 0] / near_N[near_N > 0])
    if len(log_Q) == 0 or not log_Q.any():
        raise NumericsError(
            "all neighbour distances are zero or equal; the rows have no scale to measure a dimension by"
        )
    return log_Q


def twonn(distance_NK: np.ndarray) -> float:
    """Return N / sum log(r_2 / r_1): the maximum-likelihood dimension of locally uniform density."""
    log_Q = _log_ratios(distance_NK, 1, 2)
    return float(len(log_Q) / log_Q.sum())


def gride(distance_NK: np.ndarray, scale: int) -> float:
    """Return the maximum-likelihood dimension from r_{2n} / r_n with n = `scale`; n = 1 is `twonn`.

    The root of d -> Q / d + (n - 1) sum log(mu) / (1 - mu^-d) - (2 n - 1) sum log(mu), which falls in d.
    """
    log_Q = _log_ratios(distance_NK, scale, 2 * scale)
    count, total, positive_Q = len(log_Q), float(log_Q.sum()), log_Q[log_Q > 0]
    ties = count - len(positive_Q)

    def slope(dimension: float) -> float:
        # A ratio of 1 contributes its limit 1 / d.
        inner = float((positive_Q / -np.expm1(-dimension * positive_Q)).sum()) + ties / dimension
        return count / dimension + (scale - 1) * inner - (2 * scale - 1) * total

    if slope(LARGEST_DIMENSION) > 0:
        raise NumericsError(f"the distances to neighbours {scale} and {2 * scale} are nearly equal for all rows")
    root: Any = brentq
    return float(root(slope, 1e-9, LARGEST_DIMENSION, xtol=1e-12, rtol=1e-12))


def levina_bickel(distance_NK: np.ndarray, k: int) -> float:
    """Return the inverse mean over rows of 1 / (k - 1) sum_{j < k} log(r_k / r_j) (MacKay's average).

    Rows with a neighbour at distance 0 are left out.
    """
    if k < 2 or k > distance_NK.shape[1]:
        raise NumericsError(f"k = {k} neighbours are asked for, rows have {distance_NK.shape[1]}; use k from 2 to that")
    usable_QK = distance_NK[distance_NK[:, 0] > 0, :k]
    log_QK = np.log(usable_QK[:, -1:] / usable_QK[:, :-1])
    if log_QK.size == 0 or not log_QK.any():
        raise NumericsError(
            "all neighbour distances are zero or equal; the rows have no scale to measure a dimension by"
        )
    return float(1.0 / log_QK.mean())
