"""Rank correlations of score and loss with intervals and p-values (ours; the paper reports point values).

Two things could have come out otherwise: the documents behind the score, and the handful of layers.
Each resample draws layers with replacement and takes the score of one resample of documents. Neighbouring
layers resemble each other, so these intervals are, if anything, too narrow. Resamples in which a side is
constant, or fewer than three different layers occur, are left out. Noise lowers rank correlations, so those of the
resamples can all lie below a value near 1: the percentiles are then widened to the value.

p-values shuffle the score over layers (for partial correlations: its rank residuals), two-sided.

Letters: P layers, B resamples.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from dihal_core.geometry.intervals import bounds_about
from dihal_core.geometry.ranks import partial_spearman, permutation_p, rank_residual
from dihal_core.seeding import stream

MIN_LAYERS = 3
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
NOTHING: dict[str, float | None] = {"value": None, "low": None, "high": None, "p": None}


@dataclasses.dataclass(frozen=True)
class Resamples:
    """The scores of the compared layers and how to resample them."""

    score_P: np.ndarray
    documents_RP: np.ndarray
    """Score under resampled documents; may have no rows."""
    count: int
    confidence: float
    permutations: int
    seed: int
    name: str

    @cached_property
    def layers_BP(self) -> np.ndarray:
        """Positions of the layers in each resample; those with fewer than three different ones are left out."""
        size = len(self.score_P)
        drawn_BP = stream(self.seed, "agreement", self.name, "layers").integers(0, size, (self.count, size))
        different_B = (np.diff(np.sort(drawn_BP, axis=1), axis=1) > 0).sum(axis=1) + 1
        return drawn_BP[different_B >= MIN_LAYERS]

    @cached_property
    def scores_BP(self) -> np.ndarray:
        """Score of the resampled layers, under one resample of documents each."""
        rows = len(self.layers_BP)
        if len(self.documents_RP) == 0:
            return self.score_P[self.layers_BP]
        which_B = stream(self.seed, "agreement", self.name, "documents").integers(0, len(self.documents_RP), rows)
        return np.take_along_axis(self.documents_RP[which_B], self.layers_BP, axis=1)

    def interval(self, value: float, value_B: np.ndarray) -> tuple[float | None, float | None]:
        """Percentiles over the defined resamples, widened to the value; null where fewer than half are defined."""
        value_B = value_B[np.isfinite(value_B)]
        if self.count == 0 or 2 * len(value_B) < self.count:
            return None, None
        return bounds_about(value, value_B, self.confidence)


def correlate(statistic: Statistic, target_P: np.ndarray, resamples: Resamples) -> dict[str, Any]:
    """Return value, interval and p of `statistic(score, target)`; nulls for fewer than three layers or a constant."""
    if len(target_P) < MIN_LAYERS:
        return dict(NOTHING)
    value = float(statistic(resamples.score_P, target_P))
    if not np.isfinite(value):
        return dict(NOTHING)
    low, high = resamples.interval(value, statistic(resamples.scores_BP, target_P[resamples.layers_BP]))
    rng = stream(resamples.seed, "agreement", resamples.name, "permutations")
    p = permutation_p(resamples.score_P, target_P, statistic, resamples.permutations, rng)
    return {"value": value, "low": low, "high": high, "p": p}


def partial(target_P: np.ndarray, given_P: np.ndarray | None, resamples: Resamples) -> dict[str, Any]:
    """Return the partial Spearman correlation given one other ranking, with interval and p.

    Nulls where the other ranking is missing, or leaves nothing of the score or of the loss.
    """
    if given_P is None or len(target_P) < MIN_LAYERS + 1:
        return dict(NOTHING)
    value = float(partial_spearman(resamples.score_P, target_P, given_P))
    if not np.isfinite(value):
        return dict(NOTHING)
    layers_BP = resamples.layers_BP
    low, high = resamples.interval(
        value, partial_spearman(resamples.scores_BP, target_P[layers_BP], given_P[layers_BP])
    )
    left_P, right_P = rank_residual(resamples.score_P, given_P), rank_residual(target_P, given_P)
    rng = stream(resamples.seed, "agreement", resamples.name, "partial permutations")
    p = permutation_p(left_P, right_P, _cosine, resamples.permutations, rng)
    return {"value": value, "low": low, "high": high, "p": p}


def _cosine(x_RP: np.ndarray, y_RP: np.ndarray) -> np.ndarray:
    scale = np.sqrt((x_RP**2).sum(axis=-1) * (y_RP**2).sum(axis=-1))
    return (x_RP * y_RP).sum(axis=-1) / scale
