"""How alike two layers are: debiased linear CKA and shared neighbours, as matrices over layers.

Letters: L layers, N rows, D columns, B rows of a block, k neighbours.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dihal_core.errors import ConfigError, NumericsError

BLOCK_ROWS = 64


def _same_rows(counts: Sequence[int]) -> int:
    if len(set(counts)) != 1:
        raise ConfigError(f"got layers of {sorted(set(counts))} rows; row i must be the same token in all layers")
    return counts[0]


def cka_matrix(layers: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return debiased linear CKA between all layers, shape (L, L), in the order of `layers`.

    CKA = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)) with the unbiased HSIC of Song et al. 2012: without it
    random layers look alike where N is not far above D. 1 on the diagonal; slightly negative values occur.
    Blocks of rows of all Gram matrices are held at a time, never a whole one.

    Parameters
    ----------
    layers : mapping of int to ndarray (N, D)
        The same rows in every layer; D may differ.

    Raises
    ------
    ConfigError
        Layers of different rows, or fewer than 4 rows.
    NumericsError
        A layer without variance.
    """
    n = _same_rows([len(x_ND) for x_ND in layers.values()])
    if n < 4:
        raise ConfigError(f"got {n} rows; debiased CKA needs at least 4")
    centred = [np.asarray(x_ND, dtype=np.float64) - np.mean(x_ND, axis=0, dtype=np.float64) for x_ND in layers.values()]
    norm_LN = np.array([np.einsum("nd,nd->n", x_ND, x_ND) for x_ND in centred])
    # Rows sum to zero, so a Gram matrix with its diagonal set to zero has the row sums -|x_i|^2.
    shift_LN = -norm_LN / (n - 2)
    level_L = -norm_LN.sum(axis=1) / ((n - 1) * (n - 2))
    hsic_LL = np.zeros((len(centred), len(centred)))
    for first in range(0, n, BLOCK_ROWS):
        block = slice(first, min(first + BLOCK_ROWS, n))
        rows = np.arange(block.stop - block.start)
        u_LBN = np.empty((len(centred), len(rows), n))
        for layer, x_ND in enumerate(centred):
            u_BN = np.matmul(x_ND[block], x_ND.T, out=u_LBN[layer])
            u_BN -= shift_LN[layer, block, None]
            u_BN -= shift_LN[layer]
            u_BN += level_L[layer]
            u_BN[rows, first + rows] = 0.0
        flat_LX = u_LBN.reshape(len(centred), -1)
        hsic_LL += flat_LX @ flat_LX.T
    own_L = np.diagonal(hsic_LL)
    if (own_L <= 0).any():
        raise NumericsError(f"layer {list(layers)[int((own_L <= 0).argmax())]} has no variance; CKA is undefined")
    found_LL = hsic_LL / np.sqrt(own_L[:, None] * own_L[None, :])
    np.fill_diagonal(found_LL, 1.0)
    return found_LL


def overlap_matrix(neighbours: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return the mean share of k nearest neighbours that two layers have in common, shape (L, L).

    Parameters
    ----------
    neighbours : mapping of int to ndarray (N, k)
        Row indices of the neighbours in each layer, e.g. `LayerView.neighbours_NK[:, :k]`.

    Raises
    ------
    ConfigError
        Layers of different rows or neighbours.
    """
    lists = list(neighbours.values())
    _same_rows([len(list_Nk) for list_Nk in lists])
    if len({list_Nk.shape[1] for list_Nk in lists}) != 1:
        raise ConfigError("layers have neighbour lists of different lengths; pass k of each")
    k = lists[0].shape[1]
    found_LL = np.ones((len(lists), len(lists)))
    for i, left_Nk in enumerate(lists):
        for j in range(i):
            shared = (left_Nk[:, :, None] == lists[j][:, None, :]).sum()
            found_LL[i, j] = found_LL[j, i] = float(shared) / (len(left_Nk) * k)
    return found_LL
