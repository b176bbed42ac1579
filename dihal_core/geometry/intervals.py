"""How far a score moves with other documents: resampled scores, and intervals from replicates.

Letters: L candidate layers, B resamples of documents.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dihal_core.geometry.proxies import PROXIES
from dihal_core.geometry.scoring import Combine, LayerScores


def interval(value: float, replicate_B: np.ndarray, confidence: float) -> dict[str, float | None]:
    """Return the value with percentiles and standard error (ddof 1) of its replicates; nulls where there are none."""
    if len(replicate_B) < 2:
        return {"value": float(value), "low": None, "high": None, "se": None}
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(replicate_B, [tail, 100.0 - tail])
    return {"value": float(value), "low": float(low), "high": float(high), "se": float(replicate_B.std(ddof=1))}


def score_replicates(
    tables: Mapping[int, Any],
    replicates: Mapping[int, np.ndarray],
    candidates: list[int],
    headline: LayerScores,
    combine: Combine,
) -> np.ndarray:
    """S under each resample of documents, (B, L): the protocol's S plus the movement of the score of mean proxies."""
    mean = {name: np.array([[tables[layer]["large"][name].mean()] for layer in candidates]) for name in PROXIES}
    count = min(len(replicates[layer]) for layer in candidates)
    if count == 0:
        return np.zeros((0, len(candidates)))
    moved = {
        name: np.array([replicates[layer][:count, column] for layer in candidates])
        for column, name in enumerate(PROXIES)
    }
    shift_LB = combine(moved).score_LS - combine(mean).score_LS
    return (headline.score_L[:, None] + shift_LB).T
