"""What the agreement of score and loss amounts to, in plain sentences."""

from collections.abc import Mapping
from typing import Any

from dihal_core.geometry.flags import layer_ranges

NAMES = {
    "eps_relative": "the score with a relative ridge",
    "unit_trace": "the trace-normalised score",
    "unit_trace_without_outliers": "the trace-normalised score without outlier rows",
    "curvature": "local curvature alone",
    "monotonicity": "monotonicity alone",
    "minus_effective_rank": "minus the effective rank alone",
    "depth": "depth alone (shallow first)",
    "minus_log_norm": "minus the log mean norm",
    "ridge_r2": "the R^2 of a ridge map from the embedding output",
}
GIVEN = {
    "given_depth": ("depth", "depth"),
    "given_log_norm": ("the norm", "minus_log_norm"),
    "given_ridge": ("a ridge map", "ridge_r2"),
}
"""Partial correlation -> (what is given in words, its predictor)."""
SIGNIFICANT = 0.05
TIE = 0.005
"""Rank correlations that differ by less are called equal."""


def agreement_sentences(result: Mapping[str, Any], score: Mapping[str, Any]) -> list[str]:
    """Return the sentences of the headline loss, least flattering facts included."""
    loss = result["headline"]
    block = result["losses"][loss]
    sentences = []
    if result["missing_layers"]:
        missing = layer_ranges(result["missing_layers"])
        sentences.append(
            f"No bridge was trained at {missing}; correlations, ranks and regrets are over the other layers."
        )
    value = block["spearman"]["value"]
    if value is None:
        why = "fewer than three layers have a loss" if block["layers"] < 3 else "the score or the loss is constant"
        return [*sentences, f"Whether the score predicts the bridge loss cannot be said: {why}."]
    sentences.append(_headline(block))
    sentences += _pick(block, score)
    sentences += _regrets(block)
    sentences += _rivals(block, value)
    sentences += _beyond(block)
    return sentences


def _headline(block: Mapping[str, Any]) -> str:
    found = block["spearman"]
    bounds = "" if found["low"] is None else f", interval {found['low']:.2f} to {found['high']:.2f}"
    p = "" if found["p"] is None else f", p = {found['p']:.2g}"
    return f"Spearman of score and minus the loss is {found['value']:.2f} over {block['layers']} layers{bounds}{p}."


def _pick(block: Mapping[str, Any], score: Mapping[str, Any]) -> list[str]:
    picked, best = block["best_predicted"], block["best_observed"]
    if block["rank_gap"] is None:
        return [f"The selected layer {picked} has no loss, so its rank is unknown; the best observed layer is {best}."]
    if picked == best:
        all_trained = block["layers"] == len(score["candidate_layers"])
        among = "all candidates" if all_trained else f"the {block['layers']} layers that were trained"
        return [f"The selected layer {picked} has the lowest loss of {among}."]
    return [
        f"The selected layer {picked} has rank {block['rank_gap'] + 1} of {block['layers']} by observed loss; "
        f"the best is layer {best}, whose loss is {block['regret']['1']:.3g} lower."
    ]


def _regrets(block: Mapping[str, Any]) -> list[str]:
    """Say which regrets test nothing, and which leave layers out."""
    layers = block["regret_layers"]
    covering = [top for top, found in layers.items() if found["all_with_loss"]]
    partial = [(top, found) for top, found in layers.items() if found["without_loss"] and found["with_loss"]]
    sentences = []
    if covering:
        sentences.append(
            f"Regret is not given for the top {' and '.join(covering)} by score: they hold all {block['layers']} layers that have "
            "a loss, and it would be 0 by construction."
        )
    for top, found in partial:
        if top not in covering:
            sentences.append(
                f"Regret@{top} leaves out {found['without_loss']} of its {found['with_loss'] + found['without_loss']} layers: "
                "they have no loss."
            )
    return sentences


def _rivals(block: Mapping[str, Any], value: float) -> list[str]:
    """Which single proxy or trivial rule predicts better than the score, or as well."""
    found = {
        name: facts["spearman"]
        for name, facts in block["predictors"].items()
        if name in NAMES and facts["spearman"] is not None
    }
    better = sorted((name for name in found if found[name] > value + TIE), key=lambda name: -found[name])
    equal = [name for name in found if abs(found[name] - value) <= TIE]
    sentences = []
    if better:
        listed = "; ".join(f"{NAMES[name]} ({found[name]:.2f})" for name in better)
        sentences.append(f"Better predictors of the loss than the score ({value:.2f}): {listed}.")
    if equal:
        listed = "; ".join(NAMES[name] for name in equal)
        sentences.append(f"As good as the score: {listed}.")
    if not better and not equal:
        sentences.append("No single proxy and no trivial rule predicts the loss better than the score.")
    return sentences


def _beyond(block: Mapping[str, Any]) -> list[str]:
    sentences = []
    for name, (word, predictor) in GIVEN.items():
        found = block["partial"][name]
        if found["value"] is None:
            known = block["predictors"].get(predictor)
            if known is not None and known["spearman"] is not None:
                sentences.append(
                    f"Whether the score adds anything beyond {word} cannot be said: nothing of the score or of the loss "
                    f"is left once {word} is known."
                )
        elif found["low"] is None:
            sentences.append(f"The partial correlation given {word} is {found['value']:.2f}, without an interval.")
        elif found["low"] <= 0.0 <= found["high"]:
            sentences.append(
                f"The score adds nothing beyond {word}: the interval of the partial correlation covers 0 "
                f"({found['low']:.2f} to {found['high']:.2f})."
            )
        elif found.get("p") is not None and found["p"] >= SIGNIFICANT:
            sentences.append(
                f"Whether the score tells anything beyond {word} is not settled: the partial correlation is "
                f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f}), its permutation p {found['p']:.2g}."
            )
        else:
            verdict = "adds to" if found["low"] > 0 else "contradicts the loss beyond"
            sentences.append(
                f"The score {verdict} {word}: the partial correlation is {found['value']:.2f} "
                f"({found['low']:.2f} to {found['high']:.2f})."
            )
    return sentences
