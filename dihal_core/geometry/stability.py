"""How alike overlapping subsamples rank the layers: the noise of one subsample, no interval.

Letters: L candidate layers, S subsamples, P pairs of subsamples.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dihal_core.geometry.ranks import kendall, spearman
from dihal_core.geometry.scoring import Combine, LayerScores, candidate_values


def stability_of(
    headline: LayerScores, tables: Mapping[int, Any], candidates: list[int], combine: Combine
) -> dict[str, Any]:
    """Return rank agreement over overlapping subsamples (paper section 2: 100 large, 30 small ones).

    Parameters
    ----------
    headline : LayerScores
        Scores of the large subsamples.
    tables : mapping of int to dict
        Per layer the table of subsamples (`read_table`).

    Returns
    -------
    dict
        `spearman` and `kendall` per comparison, null where undefined: `large` and `small` (subsamples against the mean of
        the large ones; `large` also has the share of subsamples that select each layer), `large_pairs` and `small_pairs`
        (two different subsamples), `large_vs_small` (the two means).
    """
    mean_L = headline.score_L
    result: dict[str, Any] = {
        "large": _agreement(headline.score_LS, mean_L),
        "large_pairs": _between(headline.score_LS),
    }
    picks = headline.score_LS.argmax(axis=0)
    result["large"]["selected"] = {
        str(candidates[position]): float((picks == position).mean()) for position in np.unique(picks)
    }
    small = candidate_values(tables, candidates, "small")
    if small["curvature"].shape[1] == 0:
        nothing = {"spearman": None, "kendall": None}
        return {**result, "small": nothing, "large_vs_small": nothing}
    scores = combine(small)
    return {
        **result,
        "small": _agreement(scores.score_LS, mean_L),
        "small_pairs": _between(scores.score_LS),
        "large_vs_small": _agreement(scores.score_L[:, None], mean_L),
    }


def _agreement(score_LS: np.ndarray, mean_L: np.ndarray) -> dict[str, Any]:
    target_SL = np.broadcast_to(mean_L, score_LS.T.shape)
    return {
        name: float(found.mean()) if np.isfinite(found).all() else None
        for name, found in (("spearman", spearman(score_LS.T, target_SL)), ("kendall", kendall(score_LS.T, target_SL)))
    }


def _between(score_LS: np.ndarray) -> dict[str, float | None]:
    """Mean rank agreement of two different subsamples, over all pairs of them."""
    first_P, second_P = np.triu_indices(score_LS.shape[1], 1)
    found: dict[str, float | None] = {}
    for name, correlation in (("spearman", spearman), ("kendall", kendall)):
        values_P = [
            correlation(score_LS.T[first_P[at : at + 512]], score_LS.T[second_P[at : at + 512]])
            for at in range(0, len(first_P), 512)
        ]
        joined_P = np.concatenate(values_P) if values_P else np.zeros(0)
        found[name] = float(joined_P.mean()) if len(joined_P) and np.isfinite(joined_P).all() else None
    return found
