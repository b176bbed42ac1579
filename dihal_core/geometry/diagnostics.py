"""What one should know about a layer's rows before believing its proxies.

Large activations of single tokens or dimensions, duplicate rows and the norm explain most surprises in
variance-based proxies (ours; the paper counts none of them).
"""

from typing import Any

import numpy as np


def outlier_mask(x_ND: np.ndarray, ratio: float) -> np.ndarray:
    """Return which rows have a norm above `ratio` times the median norm, bool (N,)."""
    norm_N = np.linalg.norm(x_ND.astype(np.float64), axis=1)
    return norm_N > ratio * np.median(norm_N)


def row_diagnostics(x_ND: np.ndarray, twin_N: np.ndarray, ratio: float) -> dict[str, Any]:
    """Return norms, outlier rows, duplicates and the leading dimension of one layer's pool.

    Parameters
    ----------
    x_ND : ndarray of shape (N, D)
        Rows, not centred.
    twin_N : ndarray of int
        Labels equal exactly where rows are equal.
    ratio : float
        Rows with a norm above this times the median are outliers.

    Returns
    -------
    dict
        `log_mean_norm` (natural log), `trace` (ddof 1), `outlier_rows`, `outlier_trace_share`,
        `duplicate_rows` (rows with at least one identical other row), `top_dimension` (column of largest
        variance), `top_dimension_share` (of the trace), `max_norm_ratio` (largest over median norm, null
        if the median is 0).
    """
    x_ND = x_ND.astype(np.float64)
    norm_N = np.linalg.norm(x_ND, axis=1)
    median = float(np.median(norm_N))
    outlier_N = norm_N > ratio * median
    x_ND -= x_ND.mean(axis=0)
    np.square(x_ND, out=x_ND)
    per_column_D, total = x_ND.sum(axis=0), float(x_ND.sum())
    top = int(per_column_D.argmax())
    copies_N = np.bincount(twin_N)[twin_N]
    return {
        "log_mean_norm": float(np.log(norm_N.mean())),
        "trace": total / (len(x_ND) - 1),
        "outlier_rows": int(outlier_N.sum()),
        "outlier_trace_share": float(x_ND[outlier_N].sum()) / total,
        "duplicate_rows": int((copies_N > 1).sum()),
        "top_dimension": top,
        "top_dimension_share": float(per_column_D[top]) / total,
        "max_norm_ratio": float(norm_N.max()) / median if median > 0 else None,
    }


def effective_number(rows_C: np.ndarray) -> float:
    """Return Kish's effective number of documents, (sum n)^2 / sum n^2: long documents count once, nearly."""
    rows_C = np.asarray(rows_C, dtype=np.float64)
    return float(rows_C.sum() ** 2 / (rows_C**2).sum())
