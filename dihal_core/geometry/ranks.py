"""Rank correlations of short sequences, vectorised over resamples.

Letters: P points, R resamples.
"""

import numpy as np


def rank(values_RP: np.ndarray) -> np.ndarray:
    """Return ranks 1..P along the last axis, ties sharing their mean rank."""
    values_RP = np.asarray(values_RP, dtype=np.float64)
    below = (values_RP[..., :, None] > values_RP[..., None, :]).sum(axis=-1)
    equal = (values_RP[..., :, None] == values_RP[..., None, :]).sum(axis=-1)
    return below + 0.5 * (equal + 1)


def _pearson(x_RP: np.ndarray, y_RP: np.ndarray) -> np.ndarray:
    x_RP = x_RP - x_RP.mean(axis=-1, keepdims=True)
    y_RP = y_RP - y_RP.mean(axis=-1, keepdims=True)
    scale = np.sqrt((x_RP**2).sum(axis=-1) * (y_RP**2).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 1e-12, (x_RP * y_RP).sum(axis=-1) / scale, np.nan)


def spearman(x_RP: np.ndarray, y_RP: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation along the last axis; NaN where one side is constant."""
    return _pearson(rank(x_RP), rank(y_RP))


def kendall(x_RP: np.ndarray, y_RP: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b along the last axis; NaN where one side is constant."""
    sign_x = np.sign(np.asarray(x_RP)[..., :, None] - np.asarray(x_RP)[..., None, :])
    sign_y = np.sign(np.asarray(y_RP)[..., :, None] - np.asarray(y_RP)[..., None, :])
    scale = np.sqrt((sign_x**2).sum(axis=(-2, -1)) * (sign_y**2).sum(axis=(-2, -1)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (sign_x * sign_y).sum(axis=(-2, -1)) / scale, np.nan)


def rank_residual(x_RP: np.ndarray, given_RP: np.ndarray) -> np.ndarray:
    """Return what a straight line in the ranks of `given` leaves of the ranks of x."""
    x_RP, given_RP = rank(x_RP), rank(given_RP)
    x_RP = x_RP - x_RP.mean(axis=-1, keepdims=True)
    given_RP = given_RP - given_RP.mean(axis=-1, keepdims=True)
    square = (given_RP**2).sum(axis=-1, keepdims=True)
    slope = (x_RP * given_RP).sum(axis=-1, keepdims=True) / np.where(square > 0, square, 1.0)
    residual_RP = x_RP - slope * given_RP
    residual_RP[np.abs(residual_RP) < 1e-9] = 0.0
    return residual_RP


def partial_spearman(x_RP: np.ndarray, y_RP: np.ndarray, given_RP: np.ndarray) -> np.ndarray:
    """Return the Pearson correlation of rank residuals; NaN where `given` leaves nothing of x or of y."""
    return _pearson(rank_residual(x_RP, given_RP), rank_residual(y_RP, given_RP))


def permutation_p(
    x_P: np.ndarray, y_P: np.ndarray, statistic, permutations: int, rng: np.random.Generator
) -> float | None:
    """Return the two-sided p-value of `statistic(x, y)` when x is shuffled; None without permutations.

    (1 + number of shuffles at least as large in magnitude) / (1 + shuffles).
    """
    observed = float(statistic(x_P, y_P))
    if permutations == 0 or not np.isfinite(observed):
        return None
    order_RP = rng.permuted(np.tile(np.arange(len(x_P)), (permutations, 1)), axis=1)
    shuffled_R = statistic(x_P[order_RP], np.broadcast_to(y_P, order_RP.shape))
    return float((1 + (np.abs(shuffled_R) >= abs(observed) - 1e-12).sum()) / (1 + permutations))
