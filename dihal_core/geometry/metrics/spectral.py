"""How many directions the rows of a layer use: metrics of the covariance spectrum and of row directions.

Letters: N rows, D columns, R variances in descending order.
"""

import numpy as np

from dihal_core.errors import NumericsError
from dihal_core.geometry.metrics.view import LayerView

POWER_LAW_RANKS = (11, 500)
"""First and last rank of the power-law fit where the spectrum is long enough (Stringer et al. 2019)."""
RANKME_EPSILON = 1e-7


def shares(view: LayerView) -> np.ndarray:
    """Return the variances as shares of the trace, descending."""
    return view.variances_R / view.variances_R.sum()


def renyi_rank(share_R: np.ndarray, order: float) -> float:
    """Return exp of the Renyi entropy of the shares: of order 1 (Shannon), inf (1 / largest share) or any other."""
    if order == 1:
        return float(np.exp(-(share_R * np.log(share_R)).sum()))
    if np.isinf(order):
        return float(1.0 / share_R.max())
    return float((share_R**order).sum() ** (1.0 / (1.0 - order)))


def rankme(view: LayerView) -> float:
    """Return exp(-sum q log q), q = s / sum s + 1e-7, s the singular values of the rows, not centred."""
    q_R = view.singular_R / view.singular_R.sum() + RANKME_EPSILON
    return float(np.exp(-(q_R * np.log(q_R)).sum()))


def components_for(share_R: np.ndarray, part: float) -> float:
    """Return how many leading components carry at least `part` of the variance."""
    return float(np.searchsorted(np.cumsum(share_R), part - 1e-12) + 1)


def powerlaw_alpha(variance_R: np.ndarray) -> float:
    """Return alpha of l_i ~ i^-alpha: minus the least-squares slope of log l_i on log i.

    Ranks 11 to 500; all ranks where there are fewer than 50.

    Raises
    ------
    NumericsError
        With fewer than three variances there is no slope.
    """
    if len(variance_R) < 3:
        raise NumericsError(f"{len(variance_R)} variances have no power-law slope; at least 3 are needed")
    first, last = POWER_LAW_RANKS if len(variance_R) >= 50 else (1, len(variance_R))
    last = min(last, len(variance_R))
    log_rank = np.log(np.arange(first, last + 1))
    log_variance = np.log(variance_R[first - 1 : last])
    centred = log_rank - log_rank.mean()
    return float(-(centred @ log_variance) / (centred @ centred))


def mean_cosine(rows_ND: np.ndarray) -> float:
    """Return the mean cosine over all pairs of different rows; rows of zeros are left out.

    Raises
    ------
    NumericsError
        If fewer than two rows have a direction.
    """
    norm_N = np.linalg.norm(rows_ND, axis=1)
    unit_ND = rows_ND[norm_N > 0] / norm_N[norm_N > 0, None]
    n = len(unit_ND)
    if n < 2:
        raise NumericsError(f"{n} rows are not zero; a mean cosine needs two")
    total_D = unit_ND.sum(axis=0)
    return float((total_D @ total_D - n) / (n * (n - 1)))


def anisotropy(view: LayerView) -> float:
    """Return the mean cosine of pairs of rows as stored (Ethayarajh 2019)."""
    return mean_cosine(view.pool.centred_ND + view.pool.mean_D)


def anisotropy_centred(view: LayerView) -> float:
    """Return the mean cosine of pairs of rows about their mean: what is left without the common direction."""
    return mean_cosine(view.pool.centred_ND)


def kurtosis(view: LayerView) -> float:
    """Return the mean over columns with variance of E[x^4] / E[x^2]^2 (centred; 3 for a Gaussian)."""
    total, columns = 0.0, 0
    for first in range(0, view.pool.centred_ND.shape[1], 256):
        square_NB = view.pool.centred_ND[:, first : first + 256] ** 2
        second_B = square_NB.mean(axis=0)
        real_B = second_B > 0
        total += float(((square_NB**2).mean(axis=0)[real_B] / second_B[real_B] ** 2).sum())
        columns += int(real_B.sum())
    return total / columns
