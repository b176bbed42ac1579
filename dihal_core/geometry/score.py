"""Stage score: S of every candidate layer with its interval, the selected layer, how sure it is, and the rivals.

Layers 0 and L are shown but never z-scored. What S is: `dihal_core.geometry.scoring`.

Letters: L candidate layers, B resamples of documents.
"""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from dihal_core.errors import ArtifactError
from dihal_core.geometry.flags import layer_flags, score_flags
from dihal_core.geometry.intervals import ScoreReplicates, interval, score_replicates
from dihal_core.geometry.proxies import PROXIES
from dihal_core.geometry.scoring import Combine, LayerScores, candidate_values, score_proxies
from dihal_core.geometry.stability import stability_of
from dihal_core.geometry.table import encode_array, read_table
from dihal_core.geometry.variants import score_variants
from dihal_core.store import StageRecord

DIAGNOSTICS = (
    "effective_rows",
    "intra_document_correlation",
    "log_mean_norm",
    "trace",
    "outlier_rows",
    "outlier_trace_share",
    "duplicate_rows",
    "top_dimension",
    "top_dimension_share",
    "max_norm_ratio",
    "position_0_norm_ratio",
    "massive_tokens",
    "massive_at_position_0",
    "sink_windows",
    "sink_tokens",
    "identity_ratio",
)


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
    headline = combine(candidate_values(tables, candidates, "large"))
    resampled = score_replicates(tables, replicates, candidates, headline, combine)
    probability = resampled.picked(candidates)
    stability = stability_of(headline, tables, candidates, combine)
    variants = score_variants(tables, facts, candidates, headline, combine)
    confidence = context.settings.score.confidence
    rows = [
        {**_layer_row(layer, tables[layer], replicates[layer], facts[layer], confidence), **extra}
        for layer, extra in _candidate_columns(list(tables), candidates, headline, resampled, probability, confidence)
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
        "effective_rows": any_facts["effective_rows"],
        "replicates": len(resampled.score_BL),
        "confidence": confidence,
    }
    result["flags"] = score_flags(result, headline.constant) + layer_flags(facts)
    context.store.write_bytes("replicates.npy", encode_array(resampled.score_BL))
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
    resampled: ScoreReplicates,
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
                "score": {
                    **interval(headline.score_L[at], resampled.score_BL[:, at], confidence),
                    "bias": None if resampled.bias_L is None else float(resampled.bias_L[at]),
                },
                "rank": int(rank_L[at]),
                "selection_probability": probability[layer],
            },
        )
