"""What else the score is compared with: other scalings, each proxy alone, depth and norm (ours).

Letters: L candidate layers, S subsamples.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dihal_core.geometry.proxies import PROXIES
from dihal_core.geometry.scoring import Combine, LayerScores, Values, candidate_values, zscore


def score_variants(
    tables: Mapping[int, Any],
    facts: Mapping[int, Any],
    candidates: list[int],
    headline: LayerScores,
    combine: Combine,
) -> dict[str, Any]:
    """Return the scores of every variant by candidate layer, and the layer it selects.

    Parameters
    ----------
    tables, facts : mapping of int to dict
        Per layer the table of subsamples (`read_table`) and `diagnostics.json`.
    headline : LayerScores
        The raw score, a variant among the others.

    Returns
    -------
    dict
        Variant -> `scores` by layer (the larger, the sooner selected) and `selected`; nulls where rows without outliers
        are too few at some layer.
    """
    raw = candidate_values(tables, candidates, "large")
    relative = candidate_values(tables, candidates, "large", "_relative")
    trace_LS = np.array([tables[layer]["large"]["trace"] for layer in candidates])
    found: dict[str, np.ndarray | None] = {
        "raw": headline.score_L,
        "eps_relative": combine(relative).score_L,
        "unit_trace": combine(to_unit_trace(relative, trace_LS)).score_L,
        "unit_trace_without_outliers": _without_outliers(facts, candidates, combine),
        "curvature": zscore(raw["curvature"]).mean(axis=1),
        "monotonicity": zscore(raw["monotonicity"]).mean(axis=1),
        "minus_effective_rank": -zscore(raw["effective_rank"]).mean(axis=1),
        "depth": -np.array(candidates, dtype=np.float64),  # shallow layers first, as the paper claims
        "minus_log_norm": -np.array([facts[layer]["log_mean_norm"] for layer in candidates]),
    }
    return {
        name: {"scores": None, "selected": None}
        if scores_L is None
        else {
            "scores": {str(layer): float(value) for layer, value in zip(candidates, scores_L, strict=True)},
            "selected": candidates[int(scores_L.argmax())],
        }
        for name, scores_L in found.items()
    }


def to_unit_trace(relative: Values, trace_LS: np.ndarray) -> dict[str, np.ndarray]:
    """Return the proxies of rows scaled to tr(Sigma) = 1, by the scale law, from those under the relative ridge."""
    return {name: array * (1.0 if PROXIES[name].scale_free else trace_LS) for name, array in relative.items()}


def _without_outliers(facts: Mapping[int, Any], candidates: list[int], combine: Combine) -> np.ndarray | None:
    measured = [facts[layer]["without_outliers"] for layer in candidates]
    if not all(measured) or len({len(rows) for rows in measured}) != 1:
        return None
    relative = {name: np.array([[row[f"{name}_relative"] for row in rows] for rows in measured]) for name in PROXIES}
    trace_LS = np.array([[row["trace"] for row in rows] for rows in measured])
    return combine(to_unit_trace(relative, trace_LS)).score_L
