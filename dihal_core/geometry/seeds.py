"""Several seeds per layer: do trainings that differ in nothing but chance rank the layers alike?

Letters: S seeds, P layers with every seed, G validation documents, R resamples.

Ours: the paper trains once per layer. The interval of the rank correlation of score and loss has three sources
here, resampled together: the documents behind the score, the validation documents, and the seeds.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dihal_core.geometry.correlations import MIN_LAYERS
from dihal_core.geometry.flags import layer_ranges
from dihal_core.geometry.intervals import bounds_about
from dihal_core.geometry.ranks import spearman
from dihal_core.seeding import stream

AIM = 0.95
"""Rank correlation between seeds from which on a ranking is called settled."""
DOCUMENT_LOSS = "fvu"
"""The loss whose parts are known per document."""
SHARED_RESAMPLES = 250
"""Resamples handled at a time."""


def seed_agreement(
    sweep: Mapping[int, Mapping[str, Any]],
    scores: Mapping[int, float],
    replicate_BL: np.ndarray,
    candidates: Sequence[int],
    losses: Sequence[str],
    replicates: int,
    confidence: float,
    seed: int,
) -> dict[str, Any] | None:
    """Return spread, agreement between seeds and agreement with the score per loss; None for a single seed.

    Parameters
    ----------
    sweep
        `sweep.json` per layer.
    scores, replicate_BL
        Score of every candidate layer, and under resampled documents (B, L).
    losses
        Names of the losses to look at.
    """
    count = max((len(block.get("seeds") or ()) for block in sweep.values()), default=0)
    if count < 2:
        return None
    layers = [layer for layer in candidates if len(sweep.get(layer, {}).get("seeds") or ()) == count]
    blocks = {}
    for name in losses:
        rows = [[seeds["arms"]["bridge"].get(name) for seeds in sweep[layer]["seeds"]] for layer in layers]
        known = [layer for layer, row in zip(layers, rows, strict=True) if None not in row]
        if known:
            values_SP = np.array([row for row in rows if None not in row], dtype=np.float64).T
            blocks[name] = _loss_block(known, values_SP, np.array([scores[layer] for layer in known]))
    result: dict[str, Any] = {
        "count": count,
        "aim": AIM,
        "losses": blocks,
        "ridges_own": [
            {"layer": layer, "seed": seeds["seed"]}
            for layer in layers
            for seeds in sweep[layer]["seeds"]
            if not seeds["improves_on_ridge"]
        ],
        "missing_layers": [layer for layer in candidates if layer not in layers],
        "interval": "between seeds: validation documents resampled; score and mean loss: seeds, validation documents and "
        "documents of the score resampled together, layers as they are; widened to the value where it lies outside",
    }
    if DOCUMENT_LOSS in blocks and len(layers) >= MIN_LAYERS:
        columns = [list(candidates).index(layer) for layer in layers]
        values = _resampled(sweep, layers, replicate_BL[:, columns], scores, count, replicates, seed)
        for name, value_R in values.items():
            low, high = _bounds(blocks[DOCUMENT_LOSS][name]["value"], value_R, confidence)
            blocks[DOCUMENT_LOSS][name] |= {"low": low, "high": high}
    result["sentences"] = _sentences(result, len(layers))
    return result


def _loss_block(layers: list[int], values_SP: np.ndarray, score_P: np.ndarray) -> dict[str, Any]:
    enough = len(layers) >= MIN_LAYERS
    pairs = [
        {"seeds": [a, b], "spearman": _number(spearman(values_SP[a], values_SP[b])) if enough else None}
        for a, b in itertools.combinations(range(len(values_SP)), 2)
    ]
    found = [pair["spearman"] for pair in pairs if pair["spearman"] is not None]
    each = [_number(spearman(score_P, -value_P)) if enough else None for value_P in values_SP]
    return {
        "layers": {
            str(layer): {
                "mean": float(column_S.mean()),
                "sd": float(column_S.std(ddof=1)),
                "low": float(column_S.min()),
                "high": float(column_S.max()),
                "values": column_S.tolist(),
            }
            for layer, column_S in zip(layers, values_SP.T, strict=True)
        },
        "best_observed": [layers[int(index)] for index in values_SP.argmin(axis=1)],
        "between_seeds": {
            "value": float(np.mean(found)) if found else None,
            "low": None,
            "high": None,
            "lowest": min(found) if found else None,
            "pairs": pairs,
        },
        "score": {
            "value": _number(spearman(score_P, -values_SP.mean(axis=0))) if enough else None,
            "low": None,
            "high": None,
            "per_seed": each,
        },
    }


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _resampled(
    sweep: Mapping[int, Mapping[str, Any]],
    layers: list[int],
    replicate_BP: np.ndarray,
    scores: Mapping[int, float],
    count: int,
    replicates: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Return resampled values, (R,) each: mean rank correlation between seeds, and that of score and mean loss."""
    parts = [[seeds["per_document"]["bridge"] for seeds in sweep[layer]["seeds"]] for layer in layers]
    documents = parts[0][0]["document"]
    if replicates == 0 or any(part["document"] != documents for row in parts for part in row):
        return {}
    sse_SPG = np.array([[part["sse"] for part in row] for row in parts]).transpose(1, 0, 2)
    sst_PG = np.array([row[0]["sst"] for row in parts])
    G, rng = len(documents), stream(seed, "agreement", "seeds")
    score_P = np.array([scores[layer] for layer in layers])
    between, with_score = [], []
    for start in range(0, replicates, SHARED_RESAMPLES):
        R = min(SHARED_RESAMPLES, replicates - start)
        weight_RG = rng.multinomial(G, np.full(G, 1.0 / G), size=R).astype(np.float64)
        loss_SRP = np.einsum("rg,spg->srp", weight_RG, sse_SPG) / (weight_RG @ sst_PG.T)
        pairs = [spearman(loss_SRP[a], loss_SRP[b]) for a, b in itertools.combinations(range(count), 2)]
        between.append(np.mean(pairs, axis=0))
        drawn_RS = rng.integers(0, count, (R, count))
        mean_RP = loss_SRP.transpose(1, 0, 2)[np.arange(R)[:, None], drawn_RS].mean(axis=1)
        score_RP = np.broadcast_to(score_P, mean_RP.shape)
        if len(replicate_BP):
            score_RP = replicate_BP[rng.integers(0, len(replicate_BP), R)]
        with_score.append(spearman(score_RP, -mean_RP))
    return {"between_seeds": np.concatenate(between), "score": np.concatenate(with_score)}


def _bounds(value: float | None, value_R: np.ndarray, confidence: float) -> tuple[float | None, float | None]:
    finite = value_R[np.isfinite(value_R)]
    if value is None or 2 * len(finite) < len(value_R):
        return None, None
    return bounds_about(value, finite, confidence)


def _sentences(result: Mapping[str, Any], layers: int) -> list[str]:
    sentences = []
    block: dict[str, Any] = result["losses"].get(DOCUMENT_LOSS) or {}
    between: dict[str, Any] = block.get("between_seeds") or {"value": None}
    if between["value"] is None:
        sentences.append(
            f"Whether {result['count']} seeds rank the layers alike cannot be said: too few layers have all."
        )
    else:
        settled = between["lowest"] >= AIM
        sentences.append(
            f"{result['count']} trainings per layer, alike but for chance, rank {layers} layers "
            f"{'alike' if settled else 'differently'}: Spearman between seeds is {between['value']:.3f} on average, "
            f"{between['lowest']:.3f} at the lowest ({AIM} is the aim)"
            + ("." if settled else ": one training per layer does not settle the ranking.")
        )
    score: dict[str, Any] = block.get("score") or {"value": None}
    if score["value"] is not None:
        bounds = "" if score["low"] is None else f", interval {score['low']:.2f} to {score['high']:.2f}"
        each = [value for value in score["per_seed"] if value is not None]
        sentences.append(
            f"Spearman of score and minus the mean loss over seeds is {score['value']:.2f}{bounds}; seed by seed it lies "
            f"between {min(each):.2f} and {max(each):.2f}."
        )
    own = result["ridges_own"]
    if own:
        where = layer_ranges(sorted({item["layer"] for item in own}))
        sentences.append(
            f"In {len(own)} of {layers * result['count']} trainings the bridge does not improve on its frozen ridge "
            f"({where}): its rank there would be the ridge's own."
        )
    return sentences
