"""Metrics of whole sequences: they need the order of tokens (Skean et al. 2025, arXiv 2502.02013).

Implemented from the formulas: differences of states, no clamping of Gram entries, cosines clipped.

Letters: N sequences, T positions, D columns.
"""

import numpy as np

from dihal_core.errors import ConfigError, NumericsError


def _lengths(states_NTD: np.ndarray, lengths_N: np.ndarray | None, least: int) -> np.ndarray:
    if states_NTD.ndim != 3:
        raise ConfigError(f"got states of shape {states_NTD.shape}; pass (sequences, positions, dimensions)")
    n, t = states_NTD.shape[:2]
    lengths_N = np.full(n, t) if lengths_N is None else np.asarray(lengths_N)
    if lengths_N.shape != (n,) or (lengths_N < 0).any() or (lengths_N > t).any():
        raise ConfigError(
            f"got lengths of shape {lengths_N.shape} for {n} sequences of {t} positions; pass 0..{t} each"
        )
    if not (lengths_N >= least).any():
        raise ConfigError(f"no sequence has {least} positions; pass longer sequences")
    return lengths_N


def prompt_entropy(states_NTD: np.ndarray, lengths_N: np.ndarray | None = None) -> float:
    """Return the mean over sequences of the matrix entropy -sum p log p, p = spectrum of Z Z^T / its trace; nats.

    Z holds the states of one sequence as they are, not centred. The Renyi entropy of order 1.
    """
    found = []
    for states_TD, length in zip(states_NTD, _lengths(states_NTD, lengths_N, 1), strict=True):
        z_TD = np.asarray(states_TD[:length], dtype=np.float64)
        gram = z_TD @ z_TD.T if len(z_TD) <= z_TD.shape[1] else z_TD.T @ z_TD
        trace = float(np.trace(gram)) if length else 0.0
        if trace > 0:
            share = np.linalg.eigvalsh(gram) / trace
            share = share[share > 0]
            found.append(-float((share * np.log(share)).sum()))
    if not found:
        raise NumericsError("all sequences are zero; they have no entropy")
    return float(np.mean(found))


def prompt_curvature(states_NTD: np.ndarray, lengths_N: np.ndarray | None = None) -> float:
    """Return the mean angle between consecutive steps z_{t+1} - z_t, in radians: over positions, then sequences.

    Steps of length zero have no direction; the angles at them are left out.
    """
    found = []
    for states_TD, length in zip(states_NTD, _lengths(states_NTD, lengths_N, 3), strict=True):
        step_TD = np.diff(np.asarray(states_TD[:length], dtype=np.float64), axis=0)
        norm_T = np.linalg.norm(step_TD, axis=1)
        usable_T = (norm_T[1:] > 0) & (norm_T[:-1] > 0)
        if not usable_T.any():
            continue
        inner_T = np.einsum("td,td->t", step_TD[1:], step_TD[:-1])[usable_T]
        cosine_T = np.clip(inner_T / (norm_T[1:] * norm_T[:-1])[usable_T], -1.0, 1.0)
        found.append(float(np.arccos(cosine_T).mean()))
    if not found:
        raise NumericsError("no sequence has two steps of positive length; there is no angle to measure")
    return float(np.mean(found))
