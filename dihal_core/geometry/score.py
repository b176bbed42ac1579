"""Stage score: S(l) = z(curvature) + z(monotonicity) - z(effective rank), and the selected layer.

Paper section 2: z over the candidate layers, the layer with the largest S is selected, and S is never
fitted to bridge losses. Ours: z with ddof 0 inside each subsample, then the mean of S over the large
subsamples; ties go to the lower layer; layers 0 and L are shown but never z-scored.

Letters: L candidate layers, S subsamples, B resamples of documents.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from dihal_core.errors import ArtifactError, ConfigError, NumericsError
from dihal_core.geometry.flags import layer_flags, score_flags
from dihal_core.geometry.proxies import PROXIES
from dihal_core.geometry.ranks import kendall, spearman
from dihal_core.geometry.table import encode_array, read_table
from dihal_core.store import StageRecord

DIAGNOSTICS = (
    "log_mean_norm",
    "trace",
    "outlier_rows",
    "outlier_trace_share",
    "duplicate_rows",
    "top_dimension",
    "top_dimension_share",
    "max_norm_ratio",
    "identity_ratio",
)
Values = Mapping[str, np.ndarray]
"""Proxy name -> values (L, S)."""
TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"linear": lambda values: values, "log": np.log}
AGGREGATES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "mean_of_scores": lambda score_LS, score_of_means_L: score_LS.mean(axis=1),
    "score_of_means": lambda score_LS, score_of_means_L: score_of_means_L,
}


@dataclasses.dataclass(frozen=True)
class LayerScores:
    """Scores of the candidate layers."""

    score_LS: np.ndarray
    """S inside each subsample."""
    score_L: np.ndarray
    """Mean over subsamples."""
    selected: int
    """Position of the largest mean score; the first of equals."""
    constant: tuple[str, ...]
    """Proxies that do not vary over layers in some subsample: they contribute 0 there."""


Combine = Callable[[Values], LayerScores]
"""`score_proxies` with the study's choices."""


def zscore(values_LS: np.ndarray) -> np.ndarray:
    """Return z-scores over layers (axis 0, ddof 0); 0 where a column is constant up to rounding."""
    mean_S, std_S = values_LS.mean(axis=0), values_LS.std(axis=0)
    varies_S = _varies(values_LS)
    return np.where(varies_S, (values_LS - mean_S) / np.where(varies_S, std_S, 1.0), 0.0)


def _varies(values_LS: np.ndarray) -> np.ndarray:
    return values_LS.std(axis=0) > 1e-12 * np.abs(values_LS).max(axis=0)


def score_proxies(values: Values, aggregate: str = "mean_of_scores", transform: str = "linear") -> LayerScores:
    """Return the score of every candidate layer.

    Parameters
    ----------
    values : mapping
        One array (L, S) per name in `PROXIES`: candidate layers by subsamples.
    aggregate : str
        `mean_of_scores`: z-scores inside each subsample, then the mean of the scores; `score_of_means`:
        z-scores of the means over subsamples.
    transform : str
        `linear` or `log`: the proxies or their logarithms enter the z-scores.

    Raises
    ------
    ConfigError
        A proxy is missing or the arrays differ in shape; fewer than two layers; an unknown choice.
    NumericsError
        A value is NaN or inf (proxy and position are named), or not positive under `log`.
    """
    if set(values) != set(PROXIES):
        raise ConfigError(f"got proxies {sorted(values)}; the score needs exactly {sorted(PROXIES)}")
    arrays = {name: np.asarray(array, dtype=np.float64) for name, array in values.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or 0 in next(iter(shapes)):
        raise ConfigError(f"got arrays of shapes {sorted(shapes)}; pass the same (layers, subsamples) for every proxy")
    if next(iter(shapes))[0] < 2:
        raise ConfigError("one candidate layer has no z-score; pass at least two layers")
    if aggregate not in AGGREGATES or transform not in TRANSFORMS:
        raise ConfigError(
            f"got aggregate {aggregate!r} and transform {transform!r}; choose from {', '.join(AGGREGATES)} "
            f"and {', '.join(TRANSFORMS)}"
        )
    for name, array_LS in arrays.items():
        usable_LS = np.isfinite(array_LS) & ((array_LS > 0) | (transform == "linear"))
        if not usable_LS.all():
            layer, sample = np.argwhere(~usable_LS)[0]
            raise NumericsError(f"{name} of layer position {layer}, subsample {sample} is {array_LS[layer, sample]}")
    mean = {name: TRANSFORMS[transform](array_LS.mean(axis=1, keepdims=True)) for name, array_LS in arrays.items()}
    arrays = {name: TRANSFORMS[transform](array_LS) for name, array_LS in arrays.items()}
    score_LS = _signed_sum(arrays)
    score_L = AGGREGATES[aggregate](score_LS, _signed_sum(mean)[:, 0])
    constant = tuple(name for name in PROXIES if not _varies(arrays[name]).all())
    return LayerScores(score_LS, score_L, int(score_L.argmax()), constant)


def _signed_sum(arrays: Values) -> np.ndarray:
    return np.sum([proxy.sign * zscore(arrays[name]) for name, proxy in PROXIES.items()], axis=0)


def build_score(context: Any) -> dict[str, Any]:
    """Build the score stage: `score.json`, and `replicates.npy` (B, L) for the agreement stage.

    Raises
    ------
    ArtifactError
        If a candidate layer has no geometry.
    """
    geometry: Mapping[int, StageRecord] = context.inputs["geometry"]
    last = context.settings.score.last_layer or context.settings.backbone.num_layers - 1
    candidates = list(range(context.settings.score.first_layer, last + 1))
    missing = [layer for layer in candidates if layer not in geometry]
    if missing:
        raise ArtifactError(f"geometry of candidate layers {missing} is missing; run the study again")
    tables = {layer: read_table(geometry[layer]) for layer in sorted(geometry)}
    facts = {layer: json.loads((geometry[layer].path / "diagnostics.json").read_bytes()) for layer in tables}
    replicates = {layer: np.load(geometry[layer].path / "bootstrap.npy", allow_pickle=False) for layer in tables}

    choices = context.settings.score
    combine: Combine = partial(score_proxies, aggregate=choices.aggregate, transform=choices.transform)
    headline = combine(_values(tables, candidates, "large"))
    replicate_BL = _score_replicates(tables, replicates, candidates, headline, combine)
    picked_B = replicate_BL.argmax(axis=1)
    probability = {
        layer: float((picked_B == position).mean()) if len(picked_B) else None
        for position, layer in enumerate(candidates)
    }
    stability = _stability(headline, tables, candidates, combine)
    variants = _variants(tables, facts, candidates, headline, combine)
    confidence = context.settings.score.confidence
    rows = [
        {**_layer_row(layer, tables[layer], replicates[layer], facts[layer], confidence), **extra}
        for layer, extra in _candidate_columns(
            list(tables), candidates, headline, replicate_BL, probability, confidence
        )
    ]
    selected = candidates[headline.selected]
    any_facts = facts[selected]
    result = {
        "candidate_layers": candidates,
        "selected_layer": selected,
        "selection_probability": {str(layer): share for layer, share in probability.items()},
        "layers": rows,
        "variants": variants,
        "stability": stability,
        "rows": any_facts["rows"],
        "documents": any_facts["documents"],
        "effective_documents": any_facts["effective_documents"],
        "replicates": len(replicate_BL),
        "confidence": confidence,
    }
    result["flags"] = score_flags(result, headline.constant) + layer_flags(facts)
    context.store.write_bytes("replicates.npy", encode_array(replicate_BL))
    context.store.write_json("score.json", result)
    context.progress(1, 1, "scores")
    return {"selected_layer": selected, "candidates": len(candidates)}


def _layer_row(layer: int, table: Any, replicate_B3: np.ndarray, facts: Mapping[str, Any], confidence: float) -> Any:
    proxies = {
        name: interval(float(table["large"][name].mean()), replicate_B3[:, column], confidence)
        for column, name in enumerate(PROXIES)
    }
    return {"layer": layer, **proxies, **{name: facts[name] for name in DIAGNOSTICS}}


def _candidate_columns(
    layers: list[int],
    candidates: list[int],
    headline: LayerScores,
    replicate_BL: np.ndarray,
    probability: Mapping[int, float | None],
    confidence: float,
) -> Iterator[tuple[int, dict[str, Any]]]:
    rank_L = np.empty(len(candidates), dtype=int)
    rank_L[np.argsort(-headline.score_L, kind="stable")] = np.arange(1, len(candidates) + 1)
    for layer in layers:
        if layer not in candidates:
            yield layer, {"candidate": False, "score": None, "rank": None, "selection_probability": None}
            continue
        at = candidates.index(layer)
        yield (
            layer,
            {
                "candidate": True,
                "score": interval(headline.score_L[at], replicate_BL[:, at], confidence),
                "rank": int(rank_L[at]),
                "selection_probability": probability[layer],
            },
        )


def interval(value: float, replicate_B: np.ndarray, confidence: float) -> dict[str, float | None]:
    """Return the value with percentiles and standard error (ddof 1) of its replicates; nulls where there are none."""
    if len(replicate_B) < 2:
        return {"value": float(value), "low": None, "high": None, "se": None}
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(replicate_B, [tail, 100.0 - tail])
    return {"value": float(value), "low": float(low), "high": float(high), "se": float(replicate_B.std(ddof=1))}


def _values(tables: Mapping[int, Any], layers: list[int], group: str, suffix: str = "") -> dict[str, np.ndarray]:
    return {name: np.array([tables[layer][group][f"{name}{suffix}"] for layer in layers]) for name in PROXIES}


def _score_replicates(
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


def _stability(
    headline: LayerScores, tables: Mapping[int, Any], candidates: list[int], combine: Combine
) -> dict[str, Any]:
    """Rank agreement over overlapping subsamples: says how much noise a subsample adds, not how sure the ranking is."""
    mean_L = headline.score_L
    result: dict[str, Any] = {
        "large": _agreement(headline.score_LS, mean_L),
        "large_pairs": _between(headline.score_LS),
    }
    picks = headline.score_LS.argmax(axis=0)
    result["large"]["selected"] = {
        str(candidates[position]): float((picks == position).mean()) for position in np.unique(picks)
    }
    small = _values(tables, candidates, "small")
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


def _variants(
    tables: Mapping[int, Any],
    facts: Mapping[int, Any],
    candidates: list[int],
    headline: LayerScores,
    combine: Combine,
) -> dict[str, Any]:
    """Scores of every variant by candidate layer; the larger, the sooner selected."""
    raw = _values(tables, candidates, "large")
    relative = _values(tables, candidates, "large", "_relative")
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
