"""Stage agreement: does the geometry score predict the validation loss of the bridges?

The score is correlated with minus the loss, so that +1 is perfect. The selected layer comes from the
sealed score record and is never recomputed from losses (paper section 4: the sweep evaluates the
score, it never tunes it). Paper: Spearman, Kendall, best predicted and best observed layer, rank gap,
single proxies and depth rules. Ours: intervals, p-values, regret, cheap rivals, partial correlations.

Letters: P layers with a score and a loss, B resamples.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from dihal_core.errors import ArtifactError
from dihal_core.geometry.correlations import MIN_LAYERS, Resamples, correlate, partial
from dihal_core.geometry.ranks import kendall, spearman
from dihal_core.geometry.seeds import seed_agreement
from dihal_core.geometry.words import agreement_sentences
from dihal_core.store import StageRecord

LOSSES = ("fvu", "paper_bridge_loss", "relative_mse", "raw_mse", "kl", "nll")
HEADLINE = "fvu"
RULES = {"early": 1 / 6, "middle": 1 / 2, "late": 5 / 6}
TOP = (1, 3, 5)
CONTROLS = {"given_depth": "depth", "given_log_norm": "minus_log_norm", "given_ridge": "ridge_r2"}

Losses = dict[int, float]
Predictor = dict[int, float]


def build_agreement(context: Any) -> dict[str, Any]:
    """Build the agreement stage: `agreement.json`.

    Layers whose bridge is missing are named; with fewer than three left, values are null and a sentence
    says so.

    Raises
    ------
    ArtifactError
        If a record cannot be read.
    """
    record: StageRecord = context.inputs["score"]
    score = _load(record, "score.json")
    replicate_BL = np.load(record.path / "replicates.npy", allow_pickle=False)
    sweep = {int(layer): _load(found, "sweep.json") for layer, found in context.inputs["sweep"].items()}
    settings = context.settings.agreement
    result = compare(
        score,
        replicate_BL,
        sweep,
        num_layers=context.settings.backbone.num_layers,
        replicates=settings.bootstrap_replicates,
        permutations=settings.permutations,
        confidence=settings.confidence,
        seed=context.settings.seed,
    )
    context.store.write_json("agreement.json", result)
    context.progress(1, 1, "agreements")
    return {"layers": len(sweep), "missing": len(result["missing_layers"])}


def _load(record: StageRecord, name: str) -> Any:
    try:
        return json.loads((record.path / name).read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{record.path / name} cannot be read ({error}); run the study again, it recomputes {record.stage}"
        ) from error


def compare(
    score: Mapping[str, Any],
    replicate_BL: np.ndarray,
    sweep: Mapping[int, Mapping[str, Any]],
    num_layers: int,
    replicates: int,
    permutations: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Return `agreement.json` from `score.json`, its replicates and one `sweep.json` per layer.

    Parameters
    ----------
    replicate_BL : ndarray of shape (B, L)
        Score of every candidate layer under resampled documents.
    num_layers : int
        L of the backbone, for the depth rules.
    """
    candidates = [int(layer) for layer in score["candidate_layers"]]
    selected = int(score["selected_layer"])
    scores = {int(row["layer"]): row["score"]["value"] for row in score["layers"] if row["candidate"]}
    predictors = _predictors(score, sweep)
    losses = {name: _losses(sweep, candidates, name) for name in LOSSES}
    blocks = {}
    for name, loss in losses.items():
        layers = sorted(loss)
        columns = [candidates.index(layer) for layer in layers]
        resamples = Resamples(
            _column(scores, layers), replicate_BL[:, columns], replicates, confidence, permutations, seed, name
        )
        blocks[name] = _loss_block(layers, loss, scores, predictors, selected, resamples)
    result = {
        "losses": blocks,
        "rules": _rules(losses[HEADLINE], selected, num_layers),
        "missing_layers": [layer for layer in candidates if layer not in sweep],
        "compute_saved": {str(top): max(0.0, 1.0 - top / len(candidates)) for top in TOP},
        "points": [
            {
                "layer": layer,
                "score": scores[layer],
                **{name: losses[name].get(layer) for name in LOSSES},
                "ridge_r2": predictors["ridge_r2"].get(layer),
            }
            for layer in candidates
            if layer in sweep
        ],
        "headline": HEADLINE,
        "interval": "layers resampled with replacement, each time with the score of another resample of documents; "
        "widened to the value where it lies outside",
    }
    seeds = seed_agreement(sweep, scores, replicate_BL, candidates, LOSSES, replicates, confidence, seed)
    if seeds is not None:
        result["seeds"] = seeds
    result["sentences"] = agreement_sentences(result, score)
    return result


def _column(values: Mapping[int, float], layers: list[int]) -> np.ndarray:
    return np.array([values[layer] for layer in layers], dtype=np.float64)


def _losses(sweep: Mapping[int, Mapping[str, Any]], candidates: list[int], name: str) -> Losses:
    found = {
        layer: (block["arms"].get("bridge") or {}).get(name) for layer, block in sweep.items() if layer in candidates
    }
    return {layer: float(value) for layer, value in found.items() if value is not None}


def _predictors(score: Mapping[str, Any], sweep: Mapping[int, Mapping[str, Any]]) -> dict[str, Predictor]:
    """All score variants, and the variance a ridge map from the embedding output explains (needs no geometry)."""
    found = {
        name: {int(layer): float(value) for layer, value in (variant["scores"] or {}).items()}
        for name, variant in score["variants"].items()
    }
    ridge = {layer: (block["arms"].get("ridge") or {}).get("fvu") for layer, block in sweep.items()}
    return {**found, "ridge_r2": {layer: 1.0 - float(value) for layer, value in ridge.items() if value is not None}}


def observed_rank(loss: Losses, layer: int | None) -> int | None:
    """Return 1 + number of layers with a lower loss; None where the layer has no loss."""
    if layer is None or layer not in loss:
        return None
    return 1 + sum(value < loss[layer] for value in loss.values())


def _gap(loss: Losses, layer: int | None) -> int | None:
    rank = observed_rank(loss, layer)
    return None if rank is None else rank - 1


def _loss_block(
    layers: list[int],
    loss: Losses,
    scores: Mapping[int, float],
    predictors: Mapping[str, Predictor],
    selected: int,
    resamples: Resamples,
) -> dict[str, Any]:
    target_P = -_column(loss, layers)
    return {
        "layers": len(layers),
        "spearman": correlate(spearman, target_P, resamples),
        "kendall": correlate(kendall, target_P, resamples),
        "best_predicted": selected,
        "best_observed": min(layers, key=lambda layer: (loss[layer], layer)) if layers else None,
        "rank_gap": _gap(loss, selected),
        "regret": {str(top): _regret(loss, scores, top) for top in TOP},
        "regret_layers": {str(top): _regret_layers(loss, scores, top) for top in TOP},
        "predictors": {name: _predictor_block(loss, values) for name, values in predictors.items()},
        "partial": {
            name: partial(
                target_P,
                _column(predictors[control], layers) if set(layers) <= set(predictors[control]) else None,
                resamples,
            )
            for name, control in CONTROLS.items()
        },
    }


def _top(scores: Mapping[int, float], top: int) -> list[int]:
    return sorted(scores, key=lambda layer: (-scores[layer], layer))[:top]


def _regret(loss: Losses, scores: Mapping[int, float], top: int) -> float | None:
    """Loss of the best of the `top` layers by score (all candidates), minus the best loss.

    None where none of them has a loss, and where they hold every layer that has one: the regret is 0 by construction
    then and tests nothing.
    """
    found = [loss[layer] for layer in _top(scores, top) if layer in loss]
    return min(found) - min(loss.values()) if 0 < len(found) < len(loss) else None


def _regret_layers(loss: Losses, scores: Mapping[int, float], top: int) -> dict[str, Any]:
    """How many of the `top` layers have a loss, how many have none, and whether the former are all that have one."""
    chosen = _top(scores, top)
    known = sum(layer in loss for layer in chosen)
    return {"with_loss": known, "without_loss": len(chosen) - known, "all_with_loss": 0 < known == len(loss)}


def _predictor_block(loss: Losses, values: Predictor) -> dict[str, Any]:
    layers = sorted(set(loss) & set(values))
    if not layers:
        return {"spearman": None, "kendall": None, "selected": None, "rank_gap": None}
    value_P, target_P = _column(values, layers), -_column(loss, layers)
    selected = max(layers, key=lambda layer: (values[layer], -layer))
    enough = len(layers) >= MIN_LAYERS
    return {
        "spearman": _number(spearman(value_P, target_P)) if enough else None,
        "kendall": _number(kendall(value_P, target_P)) if enough else None,
        "selected": selected,
        "rank_gap": _gap(loss, selected),
    }


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def depth_rule(num_layers: int, share: float) -> int:
    """Return the layer at `share` of L-1, rounded half up, at least 1."""
    return max(1, int(np.floor((num_layers - 1) * share + 0.5)))


def _rules(loss: Losses, selected: int, num_layers: int) -> dict[str, Any]:
    picks = {name: depth_rule(num_layers, share) for name, share in RULES.items()} | {"score": selected}
    return {
        name: {"layer": layer, "loss": loss.get(layer), "rank": observed_rank(loss, layer)}
        for name, layer in picks.items()
    }
