"""How predictable a layer is, and how well it predicts: ridge from the embedding output, and the logit lens.

Letters: N rows, D columns, E columns of the embedding output, V vocabulary, B rows of a block, F folds.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import logsumexp

from dihal_core.errors import ConfigError, NumericsError
from dihal_core.seeding import stream

FOLDS = 5
PENALTY = 1e-3
"""Times the mean diagonal of the Gram matrix (ours)."""
Head = Callable[[np.ndarray], np.ndarray]
"""Hidden states (B, D) -> logits (B, V): the backbone's final norm and LM head."""


def folds_of(groups_N: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return the fold of every row; rows of one group (document) share a fold."""
    names, group_N = np.unique(groups_N, return_inverse=True)
    if len(names) < 2:
        raise ConfigError(f"got {len(names)} group of rows; held-out R^2 needs at least two documents")
    fold_G = stream(seed, "geometry", "ridge folds").permutation(len(names)) % min(folds, len(names))
    return fold_G[group_N.reshape(-1)]


def ridge_r2(
    embedding_NE: np.ndarray, hidden_ND: np.ndarray, groups_N: np.ndarray | None = None, seed: int = 0
) -> float:
    """Return the held-out R^2 of a ridge map from the embedding output to a layer, over all dimensions together.

    1 - sum |x - prediction|^2 / sum |x - training mean|^2 over 5 folds of documents; below 0 where the mean
    predicts better. The strongest cheap rival of the score: it says what a linear bridge would reach.

    Parameters
    ----------
    groups_N : ndarray, optional
        Document of each row; without it every row is a group of its own, which flatters the fit.

    Raises
    ------
    ConfigError
        Arrays that differ in rows, or one group only.
    NumericsError
        If the layer has no variance in a fold's test rows.
    """
    if len(embedding_NE) != len(hidden_ND):
        raise ConfigError(
            f"got {len(embedding_NE)} embedding rows and {len(hidden_ND)} hidden rows; pass the same rows"
        )
    fold_N = folds_of(np.arange(len(hidden_ND)) if groups_N is None else np.asarray(groups_N), FOLDS, seed)
    left_NE, right_ND = np.asarray(embedding_NE, dtype=np.float64), np.asarray(hidden_ND, dtype=np.float64)
    error = total = 0.0
    for fold in range(int(fold_N.max()) + 1):
        test_N = fold_N == fold
        input_mean_E, output_mean_D = left_NE[~test_N].mean(axis=0), right_ND[~test_N].mean(axis=0)
        predict = _ridge(left_NE[~test_N] - input_mean_E, right_ND[~test_N] - output_mean_D)
        truth_BD = right_ND[test_N] - output_mean_D
        error += float(((truth_BD - predict(left_NE[test_N] - input_mean_E)) ** 2).sum())
        total += float((truth_BD**2).sum())
    if total == 0:
        raise NumericsError("the layer has no variance; R^2 is undefined")
    return 1.0 - error / total


def _ridge(left_NE: np.ndarray, right_ND: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fitted map by the smaller of the two normal equations."""
    n, e = left_NE.shape
    gram = left_NE.T @ left_NE if n > e else left_NE @ left_NE.T
    mean_diagonal = float(np.trace(gram)) / len(gram)
    if mean_diagonal == 0:  # a constant embedding output predicts the mean
        return lambda new_BE: np.zeros((len(new_BE), right_ND.shape[1]))
    gram[np.diag_indices(len(gram))] += PENALTY * mean_diagonal
    factor = cho_factor(gram, overwrite_a=True)
    if n > e:
        weight_ED = cho_solve(factor, left_NE.T @ right_ND)
        return lambda new_BE: new_BE @ weight_ED
    dual_ND = cho_solve(factor, right_ND)
    return lambda new_BE: (new_BE @ left_NE.T) @ dual_ND


def logit_lens_ce(hidden_ND: np.ndarray, head: Head, target_N: np.ndarray, block: int = 256) -> float:
    """Return the mean cross-entropy, in nats, of reading a layer with the backbone's own final norm and LM head.

    Parameters
    ----------
    head : callable
        Hidden states (B, D) -> logits (B, V).
    target_N : ndarray of int
        The token that follows each row.

    Raises
    ------
    ConfigError
        If rows and targets differ in number, or a target is outside the vocabulary.
    NumericsError
        If a logit is NaN.
    """
    if len(hidden_ND) != len(target_N) or len(hidden_ND) == 0:
        raise ConfigError(f"got {len(hidden_ND)} rows and {len(target_N)} targets; pass one target per row")
    total = 0.0
    for first in range(0, len(hidden_ND), block):
        logit_BV = np.asarray(head(hidden_ND[first : first + block]), dtype=np.float64)
        target_B = np.asarray(target_N[first : first + block])
        if target_B.min() < 0 or target_B.max() >= logit_BV.shape[1]:
            raise ConfigError(f"targets reach {target_B.max()}, the head gives {logit_BV.shape[1]} logits")
        chosen_B = np.take_along_axis(logit_BV, target_B[:, None], axis=1)[:, 0]
        total_B: Any = logsumexp(logit_BV, axis=1)
        loss = float((total_B - chosen_B).sum())
        if not np.isfinite(loss):
            raise NumericsError(
                f"the head gives logits that are not finite among rows {first}..{first + len(target_B) - 1}"
            )
        total += loss
    return total / len(hidden_ND)
