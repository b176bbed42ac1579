"""What rows and pairs must be before anything is measured, and the two ways of rescaling single rows.

Letters: N rows, D columns, M pairs.
"""

import numpy as np

from dihal_core.errors import ConfigError, NumericsError


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
    wide = x_ND.dtype.itemsize > 8  # extended precision carries padding bytes, and all arithmetic is float64
    plain_ND = np.ascontiguousarray((x_ND.astype(np.float64) if wide else x_ND) + 0.0)  # -0.0 becomes 0.0
    bytes_N = plain_ND.view(np.dtype((np.void, plain_ND.dtype.itemsize * plain_ND.shape[1]))).reshape(-1)
    return np.unique(bytes_N, return_inverse=True)[1].reshape(-1).astype(np.int32)


def require_rows(x_ND: np.ndarray, k: int, label: str) -> None:
    """Raise unless `x_ND` is a finite real array of at least k + 2 rows.

    Raises
    ------
    ConfigError
        Wrong shape or type, or too few rows.
    NumericsError
        A NaN or inf, named with its row.
    """
    if x_ND.ndim != 2 or x_ND.shape[1] < 1:
        raise ConfigError(f"{label}: got an array of shape {x_ND.shape}; pass (rows, dimensions)")
    if x_ND.dtype.kind not in "fiu":
        raise ConfigError(f"{label}: got values of type {x_ND.dtype}; pass real numbers, e.g. float32")
    if len(x_ND) < k + 2:
        raise ConfigError(
            f"{label}: got {len(x_ND)} rows for k = {k}; at least k + 2 = {k + 2} are needed: add rows or lower k"
        )
    require_finite(x_ND, label)


def _row_norms(x_ND: np.ndarray, label: str, setting: str) -> np.ndarray:
    norm_N = np.linalg.norm(x_ND, axis=1)
    if not norm_N.all():
        raise NumericsError(
            f"{label}: row {int((norm_N == 0).argmax())} is all zeros and has no direction; "
            f"drop it or do not use {setting}"
        )
    return norm_N


def rms_rows(x_ND: np.ndarray, label: str) -> np.ndarray:
    """Return every row divided by its root mean square, float64.

    Raises
    ------
    NumericsError
        If a row is all zeros.
    """
    x_ND = np.ascontiguousarray(x_ND, dtype=np.float64)
    return x_ND * (np.sqrt(x_ND.shape[1]) / _row_norms(x_ND, label, "scaling=token_rms"))[:, None]


def unit_rows(x_ND: np.ndarray, label: str) -> np.ndarray:
    """Return rows of length 1 about their common mean: their Euclidean neighbours are the cosine ones of `x_ND`.

    |u_i - u_j|^2 = 2 - 2 cos(x_i, x_j); the mean is taken off so that a common direction cancels nothing.

    Raises
    ------
    NumericsError
        If a row is all zeros.
    """
    x_ND = np.ascontiguousarray(x_ND, dtype=np.float64)
    unit_ND = x_ND / _row_norms(x_ND, label, "metric=cosine")[:, None]
    return unit_ND - unit_ND.mean(axis=0)
