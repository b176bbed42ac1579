"""How far a score moves with other documents: resampled scores, their bias, and intervals from replicates.

z-scores are not linear in the proxies. Noise in the proxies of some layers enlarges the standard deviation over
layers, so the mean of S over resampled documents is not the S of the mean proxies. The difference is the
bootstrap's estimate of the bias of S (Efron and Tibshirani 1993, chapter 10). It is reported beside S, and the
replicates are centred on S: intervals tell the spread about the paper's S and are not corrected for its bias. Where
the bias is large, centred replicates may pass the largest S that so many layers can have.

Percentiles of replicates need not enclose the value even then: the mean of a very skewed distribution lies
outside its central 95 %. Intervals are therefore widened to their value where the percentiles leave it out, which
makes `low <= value <= high` hold always. All of this is ours: the paper gives no intervals.

Letters: L candidate layers, B resamples of documents.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from dihal_core.geometry.proxies import PROXIES
from dihal_core.geometry.scoring import Combine, LayerScores


@dataclasses.dataclass(frozen=True)
class ScoreReplicates:
    """S of every candidate layer under resampled documents."""

    score_BL: np.ndarray
    """Mean over B equal to the protocol's S; no rows for fewer than two resamples."""
    bias_L: np.ndarray | None
    """Mean of S over the resamples minus S, before they were centred; None without resamples."""

    def picked(self, candidates: list[int]) -> dict[int, float | None]:
        """Return the share of resamples in which each layer has the largest S, the lower one of equals."""
        if len(self.score_BL) == 0:
            return dict.fromkeys(candidates)
        count_L = np.bincount(self.score_BL.argmax(axis=1), minlength=len(candidates))
        return {layer: float(count) / len(self.score_BL) for layer, count in zip(candidates, count_L, strict=True)}


def score_replicates(
    tables: Mapping[int, Any],
    replicates: Mapping[int, np.ndarray],
    candidates: list[int],
    headline: LayerScores,
    combine: Combine,
) -> ScoreReplicates:
    """Return the protocol's S plus the centred movement of the score of mean proxies, and the bias.

    Parameters
    ----------
    tables : mapping of int to dict
        Per layer the table of subsamples (`read_table`).
    replicates : mapping of int to ndarray (B, 3)
        Per layer the mean proxies under resampled documents, in the order of `PROXIES`.
    """
    mean = {name: np.array([[tables[layer]["large"][name].mean()] for layer in candidates]) for name in PROXIES}
    count = min(len(replicates[layer]) for layer in candidates)
    if count < 2:
        return ScoreReplicates(np.zeros((0, len(candidates))), None)
    moved = {
        name: np.array([replicates[layer][:count, column] for layer in candidates])
        for column, name in enumerate(PROXIES)
    }
    shift_LB = combine(moved).score_LS - combine(mean).score_LS
    bias_L = shift_LB.mean(axis=1)
    return ScoreReplicates((headline.score_L[:, None] + (shift_LB - bias_L[:, None])).T, bias_L)


def interval(value: float, replicate_B: np.ndarray, confidence: float) -> dict[str, float | None]:
    """Return `value`, `low`, `high` and `se` (ddof 1) from its replicates; nulls for fewer than two.

    The bounds are percentiles, widened to the value where they leave it out.
    """
    if len(replicate_B) < 2:
        return {"value": float(value), "low": None, "high": None, "se": None}
    low, high = bounds_about(value, replicate_B, confidence)
    return {"value": float(value), "low": low, "high": high, "se": float(replicate_B.std(ddof=1))}


def bounds_about(value: float, replicate_B: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the central percentiles of the replicates, widened so that the value lies between them.

    A bound that equals the value was widened: the percentiles had left the value out.
    """
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(replicate_B, [tail, 100.0 - tail])
    return min(float(low), float(value)), max(float(high), float(value))
