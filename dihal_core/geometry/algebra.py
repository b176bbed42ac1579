"""The few large operations on a whole pool, by NumPy or by torch: the same numbers up to rounding.

Letters: N rows, D columns, K neighbours.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from dihal_core.geometry.neighbourhoods import nearest


@dataclasses.dataclass(frozen=True)
class Algebra:
    """Float64 operations on NumPy arrays, wherever they are computed."""

    product: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """(a, b) -> a b."""
    eigh: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    """Symmetric (n, n) -> eigenvalues, ascending, and eigenvectors as columns."""
    nearest: Callable[[np.ndarray, int], np.ndarray]
    """(Gram matrix (N, N), K) -> the K nearest other rows of every row, int32 (N, K)."""


NUMPY = Algebra(product=np.matmul, eigh=np.linalg.eigh, nearest=nearest)


def algebra_of(backend: str) -> Algebra:
    """Return the operations of `ProxySettings.backend`; torch is imported only for its own backends.

    Raises
    ------
    ResourceError
        If the device is not there.
    """
    if backend == "numpy":
        return NUMPY
    from dihal_core.geometry.torch_kernels import torch_algebra

    return torch_algebra(backend)
